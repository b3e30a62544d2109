"""Flags, environment names and YAML keys, all made from the option dataclasses of ``presize.config``.

A value is taken from the first of: the flag, the environment (``PRESIZE_<NAME>``), the YAML file of ``--config``, the
dataclass. Every value that is there is checked, the overruled ones too: a wrong one is never silent.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from presize.cli.specs import Spec, groups, specs_of
from presize.cli.text import did_you_mean, paragraphs
from presize.config import Options
from presize.errors import ConfigError, shown

T = TypeVar("T", bound=Options)

PRECEDENCE = paragraphs(
    "A value is taken from the first of: its flag; the environment, as PRESIZE_<NAME> (PRESIZE_KV_TOKENS=8192; an "
    "empty one counts as unset); the YAML file of --config (kv_tokens: 8192); the default."
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def add_flags(parser: argparse.ArgumentParser, classes: Sequence[type[Options]]) -> None:
    """One titled group of flags for each dataclass, and ``--config``. Flags that are not given leave no trace."""
    for cls in classes:
        for title, description, specs in groups(cls):
            group = parser.add_argument_group(title, description)
            for spec in specs:
                text = spec.help.replace("%", "%%")  # argparse expands % in help texts
                if spec.kind is bool:
                    action = argparse.BooleanOptionalAction
                    group.add_argument(spec.flag, action=action, default=argparse.SUPPRESS, help=text)
                    continue
                metavar = {int: "N", float: "X", str: "TEXT"}[spec.kind]
                if spec.choices is not None:
                    metavar = "{" + ",".join(spec.choices) + "}"
                action_name = "append" if spec.many else "store"
                group.add_argument(spec.flag, metavar=metavar, action=action_name, default=argparse.SUPPRESS, help=text)
    group = parser.add_argument_group("Configuration", PRECEDENCE)
    group.add_argument("--config", metavar="FILE", help="YAML file; its keys are the flags' names with _ for -")


def gather(
    args: argparse.Namespace,
    classes: Sequence[type[Options]],
    environ: Mapping[str, str] | None = None,
    *,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Values that were given, by name; ConfigError names the source, the option, the value and what it must be.

    ``aliases``: other names of options that a verb has flags for.
    """
    environ = os.environ if environ is None else environ
    specs = specs_of(classes)
    values = _from_file(args.config, specs) if getattr(args, "config", None) else {}
    for spec in specs.values():
        if text := environ.get(spec.env):
            values[spec.name] = _checked(spec, text, f"environment variable {spec.env}", _parse_env)
    for typed in (*specs, *aliases):
        if not hasattr(args, typed):
            continue
        name = aliases.get(typed, typed)
        spec = replace(specs[name], name=typed)
        if name != typed and hasattr(args, name):
            raise ConfigError(f"flags {specs[name].flag} and {spec.flag} mean the same; give one of them")
        values[name] = _checked(spec, getattr(args, typed), f"flag {spec.flag}", _parse_flag)
    return values


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass from those of the values that are its own."""
    names = {f.name for f in fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})


def _checked(spec: Spec, raw: Any, source: str, parse: Any) -> Any:
    """Parse and check; every problem becomes one ConfigError."""
    try:
        value = parse(spec, raw)
    except (ValueError, TypeError):
        value = _WRONG
    entries = value if spec.many and value is not _WRONG else (value,)
    for entry in entries:
        fits = entry is not _WRONG
        if fits and entry is not None and spec.choices is not None:
            fits = entry in spec.choices
        if fits and entry is not None and spec.low is not None and spec.high is not None:
            fits = spec.low <= entry <= spec.high  # NaN fits nowhere
        if not fits:
            hint = did_you_mean(str(raw), spec.choices) if spec.choices else ""
            raise ConfigError(f"{source}: {spec.name} is {shown(raw)}; it must be {spec.wanted}{hint}")
    return value


_WRONG = object()


def _parse_text(spec: Spec, text: str) -> Any:
    if spec.optional and text.lower() == "none":
        return None
    if spec.kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(text)
        return text.lower() in _TRUE
    return spec.kind(text)


def _parse_flag(spec: Spec, raw: Any) -> Any:
    if isinstance(raw, bool):  # --x / --no-x
        return raw
    return tuple(_parse_text(spec, text) for text in raw) if spec.many else _parse_text(spec, raw)


def _parse_env(spec: Spec, text: str) -> Any:
    if spec.many:  # strings may hold commas, so a variable is one string; numbers are split
        return (text,) if spec.kind is str else tuple(spec.kind(part) for part in text.split(","))
    return _parse_text(spec, text)


def _parse_yaml(spec: Spec, value: Any) -> Any:
    if spec.many:
        entries = value if isinstance(value, list) else [value]
        return tuple(_parse_yaml_scalar(spec, entry) for entry in entries)
    return _parse_yaml_scalar(spec, value)


def _parse_yaml_scalar(spec: Spec, value: Any) -> Any:
    if value is None and spec.optional:
        return None
    if spec.kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        return float(value)  # YAML 1.1 reads 1e-3, which has no dot, as a string
    if not isinstance(value, spec.kind) or (isinstance(value, bool) and spec.kind is not bool):
        raise TypeError(value)
    return value


def _from_file(path: str, specs: Mapping[str, Spec]) -> dict[str, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        root = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"--config {path} can not be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold lines such as `kv_tokens: 8192`, not a {type(content).__name__}")
    assert isinstance(root, yaml.MappingNode)  # what a dict is made from
    lines: dict[Any, int] = {}
    for key, _ in root.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(f"{path} line {line}: {key.value} is there twice; it was set on line {lines[key.value]}")
        lines[key.value] = line
    for key in content:
        if key not in specs:
            where = f"{path} line {lines[key]}" if key in lines else path
            known = f"known: {', '.join(specs)}{did_you_mean(str(key), specs)}"
            raise ConfigError(f"{where}: unknown key {shown(key)}; {known}")
    return {
        key: _checked(specs[key], value, f"{path} line {lines[key]}" if key in lines else path, _parse_yaml)
        for key, value in content.items()
    }
