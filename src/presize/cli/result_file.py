"""The file of --save-result."""

from __future__ import annotations

import os

from presize.errors import ConfigError, PresizeError


def check_writable(path: str) -> None:
    """ConfigError if the file can not be written; to be known before a long run, not after it."""
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise ConfigError(f"--save-result {path} can not be written")


def save(path: str, text: str) -> None:
    """Write or replace it; PresizeError if that fails."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PresizeError(f"--save-result {path} can not be written: {error.strerror or error}") from error
