"""The file of --save-plot or --save-gif: checked before the long work, written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from presize.errors import ConfigError, require
from presize.whole_file import replace_file

SUFFIXES = ("png", "svg", "pdf")
_DOTS = 150  # an inch


def check_picture(path: Path, option: str = "save_plot", suffixes: Sequence[str] = SUFFIXES) -> None:
    """ConfigError, before the long work, if a picture can not be made at ``path``."""
    if path.suffix.lower().removeprefix(".") not in suffixes:
        wanted = " or ".join(f".{suffix}" for suffix in suffixes[-2:])
        wanted = ", ".join([*(f".{suffix}" for suffix in suffixes[:-2]), wanted])
        raise ConfigError(f"{option} is {str(path)!r}; its name must end in {wanted}")
    if path.is_dir():
        raise ConfigError(f"{option} is {str(path)!r}, which is a directory; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} is {str(path)!r}; there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} is {str(path)!r}; the directory {str(path.parent)!r} can not be written to")
    require("matplotlib", "learn", option)


def new_figure(size: tuple[float, float]) -> Any:
    """A matplotlib figure of ``size`` inches, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Any, dots: int = _DOTS) -> None:
    """In the format that the name says; ConfigError if it can not be written."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().removeprefix("."), dpi=dots)
    write(path, content.getvalue(), "save_plot")


def write(path: Path, content: bytes, option: str) -> None:
    """Write or replace the file, whole; ConfigError, and the old file is left, if that fails."""
    try:
        replace_file(path, content, mode=0o644)
    except OSError as error:
        raise ConfigError(f"{option} is {str(path)!r}, which can not be written: {error.strerror or error}") from error
