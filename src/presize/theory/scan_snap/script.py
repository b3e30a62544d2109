"""A training script of anyone's, run with `AttentionProbe` on the first model that it trains."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from presize.errors import ConfigError, first_line
from presize.theory.scan_snap.probe import AttentionProbe


def run_watched(script: Path, arguments: Sequence[str], log: Path, every: int) -> None:
    """Run a Python file as ``__main__``; the probe writes ``log``, which must not exist.

    The model: the first module with parameters that is called in ``train()`` mode while gradients are on, from its
    second pass on. ConfigError, one sentence, if the file can not be read or fails, or trains nothing.
    """
    if not script.is_file():
        raise ConfigError(f"{script} can not be read: there is no such file")
    if log.exists():
        raise ConfigError(f"log is {str(log)!r}, which is there already; name another file, or remove it")
    probes: list[AttentionProbe] = []

    def first(module: nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled() and next(module.parameters(), None) is not None:
            hook.remove()
            probes.append(AttentionProbe(module, every=every, log=log))

    hook = nn.modules.module.register_module_forward_pre_hook(first)
    argv, path = sys.argv, sys.path.copy()
    sys.argv, sys.path[:0] = [str(script), *arguments], [str(script.resolve().parent)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise ConfigError(f"{script} ended with status {end.code}") from end
    except Exception as error:  # of the script, which may raise anything
        raise ConfigError(f"{script} failed: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.argv, sys.path[:] = argv, path
        hook.remove()
        for probe in probes:
            probe.close()
    if not probes:
        raise ConfigError(f"{script} called no model with parameters in training mode; there was nothing to watch")
    if not probes[0].rows:
        log.unlink()
        raise ConfigError(f"{script} trained a {type(probes[0].model).__name__} in which the probe saw no attention")
