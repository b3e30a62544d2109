"""What may stand under ``presize`` in vLLM's ``--additional-config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from presize.config import Options, SchedulerOptions, option
from presize.core.ordering import ORDERS
from presize.errors import ConfigError
from presize.predict import PREDICTORS

KEY = "presize"
# of the scheduler's options; bookings, objectives of a server and files of lengths have no place in vLLM
_OF_SCHEDULER = ("policy", "order", "predictor", "learn_online", "risk", "payback", "watermark", "aging")
_REFUSED = {
    "oracle": "true lengths come with each request here, as presize_output_tokens in vllm_xargs",
    "auto": "name kaplan-meier, or a directory of `presize learn`",
}


@dataclass(frozen=True, kw_only=True)
class VllmOptions(Options):
    """enabled: false leaves everything to vLLM. off_file: it does so while there is a file of this name."""

    scheduler: SchedulerOptions
    enabled: bool = option(True, "false leaves everything to vLLM")
    off_file: str | None = option(None, "while a file of this name is there, vLLM schedules by itself")


def read_options(additional_config: object) -> VllmOptions:
    """From vLLM's additional_config; ConfigError names the option, its value and what is allowed."""
    given = additional_config.get(KEY, {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"additional_config[{KEY!r}] is {given!r}; it must be an object of options")
    known = ("enabled", "off_file", *_OF_SCHEDULER)
    if unknown := sorted(str(name) for name in given if name not in known):
        raise ConfigError(f"unknown option {unknown[0]!r} of {KEY}; known: {', '.join(known)}")
    values: dict[str, Any] = {"predictor": "kaplan-meier", **given}
    own = {name: values.pop(name) for name in ("enabled", "off_file") if name in values}
    options = SchedulerOptions(**values)
    ORDERS.get(options.order)
    _check_predictor(options)
    return VllmOptions(scheduler=options, **own)


def _check_predictor(options: SchedulerOptions) -> None:
    name = options.predictor
    names = [known for known in PREDICTORS if known not in _REFUSED]
    if name in _REFUSED:
        raise ConfigError(f"predictor {name} is not for vLLM: {_REFUSED[name]}")
    if name not in names and not (name and Path(name).is_dir()):
        raise ConfigError(
            f"predictor is {name!r}; it must be one of {', '.join(names)}, or a directory that `presize learn` wrote"
        )
    if options.learn_online is not None and name in names:
        raise ConfigError(f"learn_online needs a directory of `presize learn` as predictor, and {name} is none")


def described(options: SchedulerOptions) -> str:
    """In one line, for the log."""
    default = SchedulerOptions(predictor="")
    shown = ["policy", "order", "predictor"]
    shown += [
        f.name for f in fields(options) if f.name not in shown and getattr(options, f.name) != getattr(default, f.name)
    ]
    return ", ".join(f"{name} {getattr(options, name)}" for name in shown)
