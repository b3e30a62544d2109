"""Flags, environment and YAML: precedence, checks, help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from presize.cli.flags import add_flags, build, gather
from presize.cli.generate_options import GenerateOptions
from presize.cli.specs import groups, specs_of
from presize.config import EngineOptions, Options, option
from presize.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BaseOptions(Options):
    """Things at the base.

    More about them.
    """

    size: int = option(5, "how big, in %", low=1, high=10)
    limit: int | None = option(None, "a limit (default: none at all)", low=1, high=2**30)


@dataclass(frozen=True, kw_only=True)
class AllOptions(BaseOptions):
    """Everything."""

    name_of_it: str | None = option(None, "a name")
    share: float = option(0.5, "a share", low=0, high=1)
    loud: bool = option(False, "say more")
    colour: str = option("red", "a colour", choices=("red", "green"))
    policy: str = option("payback", "a policy", registry="policy")
    words: tuple[str, ...] = option((), "words")
    numbers: tuple[int, ...] = option((), "numbers")

    def __post_init__(self) -> None:
        pass


def resolve(*argv: str, env: Mapping[str, str] | None = None) -> AllOptions:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_flags(parser, [AllOptions])
    return build(AllOptions, gather(parser.parse_args(argv), [AllOptions], env or {}))


def fails(*argv: str, env: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(*argv, env=env)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> str:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_nothing_given_is_the_defaults() -> None:
    assert resolve() == AllOptions()


def test_flag_before_environment_before_file_before_default(yaml_file: Any) -> None:
    config = yaml_file("size: 2\nshare: 0.25\ncolour: green\n")
    environ = {"PRESIZE_SIZE": "3", "PRESIZE_SHARE": "0.75", "PRESIZE_LIMIT": ""}
    found = resolve("--config", config, "--size", "4", env=environ)
    assert (found.size, found.share, found.colour, found.limit) == (4, 0.75, "green", None)


def test_every_type_from_every_source(yaml_file: Any) -> None:
    wanted = AllOptions(
        size=7, limit=9, name_of_it="x", share=0.125, loud=True, colour="green", words=("a", "b,c"), numbers=(1, 2)
    )
    flags = "--size 7 --limit 9 --name-of-it x --share .125 --loud --colour green --words a --words b,c --numbers 1"
    assert resolve(*flags.split(), "--numbers", "2") == wanted
    text = "size: 7\nlimit: 9\nname_of_it: x\nshare: 125.e-3\nloud: true\ncolour: green\nwords: [a, 'b,c']\n"
    assert resolve("--config", yaml_file(text + "numbers: [1, 2]\n")) == wanted
    environ = {"SIZE": "7", "LIMIT": "9", "NAME_OF_IT": "x", "SHARE": "125e-3", "LOUD": "yes", "COLOUR": "green"}
    environ |= {"WORDS": "b,c", "NUMBERS": "1,2"}
    found = resolve(env={"PRESIZE_" + name: value for name, value in environ.items()})
    assert found == AllOptions(**{**wanted.__dict__, "words": ("b,c",)})


def test_none_and_off_undo_what_the_file_says(yaml_file: Any) -> None:
    config = yaml_file("limit: 9\nloud: true\nname_of_it:\n")
    found = resolve("--config", config, "--limit", "none", "--no-loud")
    assert (found.limit, found.loud, found.name_of_it) == (None, False, None)


def test_yaml_scientific_notation_without_a_dot_is_a_number(yaml_file: Any) -> None:
    assert resolve("--config", yaml_file("share: 1e-1")).share == 0.1


@pytest.mark.parametrize("text", ["11", "0", "2.5", "x", "none"])
def test_errors_name_source_option_value_and_range(text: str, yaml_file: Any) -> None:
    sources = {
        "flag --size": fails("--size", text),
        "environment variable PRESIZE_SIZE": fails(env={"PRESIZE_SIZE": text}),
    }
    for source, error in sources.items():
        assert error == f"{source}: size is '{text}'; it must be a whole number from 1 to 10"
    assert "c.yaml line 2: size is " in fails("--config", yaml_file(f"loud: true\nsize: {text}"))


def test_an_overruled_value_is_checked_too() -> None:
    assert "PRESIZE_SIZE" in fails("--size", "3", env={"PRESIZE_SIZE": "x"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("loud: 1", "loud is 1; it must be true or false"),
        ("share: true", "share is True; it must be a number from 0 to 1"),
        ("share: .nan", "share is nan"),
        ("size: null", "size is None"),
        ("size: '3'", "size is '3'"),
        ("size: [1]", "size is [1]"),
        ("name_of_it: 5", "name_of_it is 5; it must be text, or none"),
        ("colour: blue", "it must be one of red, green"),
        ("words: [1]", "each entry text"),
        ("numbers: {}", "each entry a whole number"),
    ],
)
def test_wrong_types_in_the_file(line: str, words: str, yaml_file: Any) -> None:
    assert words in fails("--config", yaml_file(line))


def test_nan_is_in_no_range() -> None:
    assert "share is 'nan'" in fails("--share", "nan")


def test_an_unknown_name_of_a_registry_lists_the_known_ones() -> None:
    error = fails("--policy", "paybak")
    assert "worst-case" in error
    assert error.endswith("did you mean payback?")


def test_an_unknown_key_lists_the_known_ones(yaml_file: Any) -> None:
    error = fails("--config", yaml_file("size: 3\nname-of-it: x\n"))
    assert "line 2: unknown key 'name-of-it'" in error
    assert all(spec in error for spec in specs_of([AllOptions]))
    assert error.endswith("did you mean name_of_it?")


@pytest.mark.parametrize(
    "text", ["size: [", "- 1", "just text", b"\xff", "a: !!python/object x", "? [1]\n: 2", "size: 1\nsize: 2", "1: 2"]
)
def test_a_file_that_is_no_table_of_options(text: str | bytes, yaml_file: Any) -> None:
    assert "c.yaml" in fails("--config", yaml_file(text))


def test_an_empty_file_is_no_options(yaml_file: Any) -> None:
    assert resolve("--config", yaml_file("# nothing\n")) == AllOptions()


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    assert fails("--config", str(tmp_path / "x")).endswith("can not be read: No such file or directory")
    assert "can not be read" in fails("--config", str(tmp_path))


def test_one_group_for_each_dataclass() -> None:
    assert [title for title, _, _ in groups(EngineOptions)] == ["Model", "Memory", "Scheduler"]
    assert [(title, text) for title, text, _ in groups(AllOptions)] == [
        ("All", "Everything."),
        ("Base", "Things at the base."),
    ]


def test_help_shows_defaults_and_ranges() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, [AllOptions])
    text = " ".join(parser.format_help().split())
    assert "how big, in % (default: 5; 1 to 10)" in text
    assert "a limit (default: none at all; at least 1)" in text
    assert "say more (default: off)" in text
    assert "--colour {red,green} a colour (default: red)" in text


def test_options_of_two_verbs_never_share_a_name() -> None:
    names = [spec.name for cls in (EngineOptions, GenerateOptions) for _, _, specs in groups(cls) for spec in specs]
    assert len(names) == len(set(names))


def test_sampling_flags_are_checked_as_the_engine_checks_them() -> None:
    with pytest.raises(ConfigError, match="top_p is 0"):
        GenerateOptions(top_p=0.0)
    with pytest.raises(ConfigError, match="min_tokens is 9"):
        GenerateOptions(min_tokens=9, max_tokens=3)
