"""What a measurement was made on: hardware, versions, date."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from presize.version import __version__

_PACKAGES = ("torch", "numpy", "numba", "transformers", "tokenizers")


def describe() -> dict[str, Any]:
    """JSON values only; what can not be found out is left out or null."""
    versions = {"presize": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    hardware: dict[str, Any] = {"machine": platform.machine(), "cpu": _cpu_model(), "cores": _cores()}
    with suppress(ValueError, OSError, AttributeError):
        hardware["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():  # never the reason to import it
        hardware["gpu"] = torch.cuda.get_device_name()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "hardware": hardware,
        "versions": versions,
    }


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str | None:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
