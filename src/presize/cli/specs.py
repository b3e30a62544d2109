"""The option dataclasses of ``presize.config`` as the command line sees them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from presize.config import Options

_REGISTRIES = {
    "policy": ("presize.core.admission", "POLICIES"),
    "order": ("presize.core.ordering", "ORDERS"),
}
_OPEN_END = 2**20  # an upper bound from here on is only a guard; the help does not show it


def registry_names(kind: str) -> tuple[str, ...]:
    """Known names of a registry ("policy", "order"); imported here, because it needs numpy."""
    module, attribute = _REGISTRIES[kind]
    return tuple(getattr(importlib.import_module(module), attribute))


@dataclass(frozen=True, slots=True)
class Spec:
    """One option as the command line sees it."""

    name: str
    kind: type  # str, int, float or bool: of the value, or of one entry if ``many``
    optional: bool
    many: bool
    default: Any
    text: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None

    @property
    def flag(self) -> str:
        """``kv_tokens`` is ``--kv-tokens``."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """``kv_tokens`` is ``PRESIZE_KV_TOKENS``."""
        return "PRESIZE_" + self.name.upper()

    @property
    def wanted(self) -> str:
        """What a value must be, for errors."""
        if self.choices is not None:
            text = f"one of {', '.join(self.choices)}"
        elif self.kind is bool:
            text = "true or false"
        elif self.kind is str:
            text = "text"
        else:
            text = "a whole number" if self.kind is int else "a number"
            if self.low is not None and self.high is not None:
                text += f" from {_number(self.low)} to {_number(self.high)}"
        if self.many:
            text = f"a list, each entry {text}"
        return f"{text}, or none" if self.optional else text

    @property
    def help(self) -> str:
        """Help text with the default and the range."""
        notes = []
        if "(default" not in self.text:
            empty = self.default is None or self.default == ()
            value = ("on" if self.default else "off") if self.kind is bool else self.default
            notes.append(f"default: {'none' if empty else value}")
        if self.low is not None and self.high is not None:
            low = _number(self.low)
            notes.append(f"at least {low}" if self.high >= _OPEN_END else f"{low} to {_number(self.high)}")
        if self.many:
            notes.append("may be given several times")
        if not notes:
            return self.text
        if "(default" in self.text and self.text.endswith(")"):
            return f"{self.text[:-1]}; {'; '.join(notes)})"
        return f"{self.text} ({'; '.join(notes)})"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**63 else f"{value:g}"


def groups(cls: type[Options]) -> list[tuple[str, str, list[Spec]]]:
    """``(title, description, specs)`` of every dataclass in the MRO that declares options itself."""
    hints = get_type_hints(cls)
    by_name = {f.name: f for f in fields(cls)}
    found = []
    for owner in cls.__mro__:
        own = [by_name[name] for name in inspect.get_annotations(owner) if name in by_name]
        specs = []
        for f in own:
            arguments = get_args(hints[f.name])
            many = get_origin(hints[f.name]) is tuple
            optional = type(None) in arguments
            kind = next(a for a in arguments if a not in (type(None), ...)) if arguments else hints[f.name]
            registry = f.metadata.get("registry")
            choices = registry_names(registry) if registry else f.metadata.get("choices")
            low, high = f.metadata.get("low"), f.metadata.get("high")
            specs.append(Spec(f.name, kind, optional, many, f.default, f.metadata["help"], low, high, choices))
        if specs:
            title = owner.__name__.removesuffix("Options")
            found.append((title, (inspect.getdoc(owner) or "").split("\n")[0], specs))
    return found


def specs_of(classes: Sequence[type[Options]]) -> dict[str, Spec]:
    """Every option of the classes by name."""
    return {spec.name: spec for cls in classes for _, _, specs in groups(cls) for spec in specs}
