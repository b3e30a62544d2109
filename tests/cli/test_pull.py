"""`presize pull`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from presize.cli import pull
from presize.config import DEFAULT_MODEL
from presize.engine import hub
from presize.errors import ModelError


def parse(*arguments: str):
    parser = ArgumentParser()
    pull.add_parser(parser.add_subparsers())
    return parser.parse_args(["pull", *arguments])


@pytest.fixture
def resolved(monkeypatch) -> list[str]:
    """Stands in for `resolve`; the names that were asked for."""
    asked: list[str] = []

    def resolve(name, *, report, refresh):
        assert refresh
        asked.append(name)
        report("waiting for another process", 0, 0)
        for done in (0, 5_000_000, 10_000_000):
            report("downloading", done, 10_000_000)
        return Path("/cache/model")

    monkeypatch.setattr(hub, "resolve", resolve)
    return asked


def test_the_directory_is_all_of_stdout_and_each_stage_is_a_line_of_stderr(resolved, capsys):
    args = parse("owner/name")
    assert args.run(args) == 0
    assert capsys.readouterr() == ("/cache/model\n", "waiting for another process\ndownloading (10 MB)\n")
    assert resolved == ["owner/name"]


def test_a_terminal_gets_a_bar(resolved, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    args = parse()
    assert args.run(args) == 0
    assert capsys.readouterr().out == "/cache/model\n"
    assert resolved == [DEFAULT_MODEL]


@pytest.mark.parametrize("terminal", [True, False])
def test_errors_are_left_to_the_caller(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    args = parse(str(tmp_path))
    with pytest.raises(ModelError, match=r"no config\.json"):
        args.run(args)
    assert capsys.readouterr().out == ""


def test_help_has_an_example_and_names_the_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    out = capsys.readouterr().out
    assert "presize pull owner/name" in out
    assert DEFAULT_MODEL in out
