"""What Presize raises.

PresizeError
├── ConfigError(ValueError)          an option, a flag or a configuration file
├── InvalidRequestError(ValueError)  one request: a field, its value, the allowed range
│   └── CapacityError                a request that can never fit, with the numbers
├── OverloadedError                  more is waiting than a limit or an objective allows: try again later
├── EngineFailed                     the engine has ended, or is about to
├── NumericalError                   training has met a number that is not finite, or a decomposition that fails
└── ModelError                       a model or predictor that is missing, damaged or not supported

Everything a user can cause is one of these, and its text is one sentence that says what to do; the command line
prints that sentence and exits with a non-zero status. An ``AssertionError`` is a bug in Presize.
"""

from __future__ import annotations

import importlib.util

MAX_SHOWN = 200  # characters of a user's value that an error repeats


class PresizeError(Exception):
    """Base of every error that Presize raises on purpose."""


class ConfigError(PresizeError, ValueError):
    """An option has a value that is unknown or out of range."""


class InvalidRequestError(PresizeError, ValueError):
    """One request can not be served as it is; others are not affected."""


class CapacityError(InvalidRequestError):
    """A request needs more KV memory, or more positions, than there will ever be."""


class OverloadedError(PresizeError):
    """No room now. retry_after_s: when the forecast says that there is."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineFailed(PresizeError):
    """The engine has ended, or is about to: no request can be served any more."""


class NumericalError(PresizeError):
    """A gradient is not finite, or a decomposition fails again and again: the training can not go on as it is."""


class ModelError(PresizeError):
    """A model, tokenizer or predictor is missing, damaged or not supported."""


def check_range(
    name: str,
    value: float,
    low: float,
    high: float,
    error: type[PresizeError] = ConfigError,
    *,
    above: bool = False,
) -> None:
    """Raise ``error`` unless ``low <= value <= high`` (``low < value`` if ``above``); NaN never passes."""
    inside = (low < value <= high) if above else (low <= value <= high)
    if not inside:
        bracket = "(" if above else "["
        raise error(f"{name} is {value}; it must be in {bracket}{low:g}, {high:g}]")


def install(extra: str) -> str:
    """How to get what an extra of Presize brings."""
    return f"pip install 'presize[{extra}]', or scripts/setup {extra} in a clone"


def require(package: str, extra: str, what: str) -> None:
    """ConfigError, before the work of ``what`` begins, if a package that an extra brings is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}: {install(extra)}")


def shown(value: object) -> str:
    """``repr`` of a value from outside, cut to a length that fits an error message."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def first_line(error: Exception) -> str:
    """What another library has to say, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
