"""Write docs/cli.md from the parsers: ``python scripts/cli_reference.py [--check]``; 1 if the file is stale."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from presize.cli.main import VERBS, build_parser, help_text

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEADER = """\
# The command line

Made from the parsers by `python scripts/cli_reference.py`; do not edit.
"""


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that have no verbs below them."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for child in action.choices.values():
            yield from leaves(child)
    if not below:
        yield parser


def section(parser: argparse.ArgumentParser, seen: dict[str, str]) -> str:
    """One verb: usage, description, a table for each group of flags, epilogue; a group is printed once (``seen``)."""
    parts = [f"## {parser.prog}", fenced(parser.format_usage()), parser.description or ""]
    for group in parser._action_groups:
        rows = [row(action) for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        table = "\n".join(["| | |", "| --- | --- |", *rows])
        if rows and table in seen:
            parts.append(f"### {group.title}\n\nAs in `{seen[table]}`.")
        elif rows:
            seen[table] = parser.prog
            title = "Arguments" if group.title == "positional arguments" else (group.title or "").capitalize()
            description = " ".join((group.description or "").split()).replace("<", "\\<")
            parts += [f"### {title}", description, table]
    parts.append(fenced(parser.epilog) if parser.epilog else "")
    return "\n\n".join(part for part in parts if part)


def row(action: argparse.Action) -> str:
    """One line of a table."""
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0 and action.metavar:
        name += f" {action.metavar}"
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    return f"| `{name}` | {text} |"


def fenced(text: str) -> str:
    """A block of plain text."""
    return f"```text\n{text.strip()}\n```"


def reference() -> str:
    """The whole file."""
    parts = [HEADER.rstrip(), fenced(help_text())]
    seen: dict[str, str] = {}
    with patch.dict(os.environ, COLUMNS="120"):  # argparse wraps to the terminal, which must not matter here
        parts += [section(parser, seen) for verb in VERBS for parser in leaves(build_parser(verb))]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    args = parser.parse_args()
    text = reference()
    if not args.check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET} is stale; run: python scripts/cli_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
