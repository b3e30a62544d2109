"""A server that answers as it is told, and an environment without Presize's variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fake import Answer, Fake

from presize.cli.main import main


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PRESIZE_") or name == "OPENAI_API_KEY":
            monkeypatch.delenv(name)


@pytest.fixture
def fake() -> Iterator[Callable[[Answer], Fake]]:
    """``fake(answer)``: a server that gives each request this answer."""
    made: list[Fake] = []

    def start(answer: Answer) -> Fake:
        made.append(Fake(answer))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def bench(capsys: Any) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """``bench(url, *flags)`` runs the verb: its exit status, the last line of standard output, standard error."""

    def run(url: str, *flags: object) -> tuple[int, dict[str, Any], str]:
        status = main(["bench", "serve", "--base-url", url, *map(str, flags)])
        captured = capsys.readouterr()
        return status, orjson.loads(captured.out.splitlines()[-1]) if captured.out else {}, captured.err

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(name, *rows)``: a file of lines; what is not text or bytes becomes JSON."""

    def lines(name: str, *rows: Any) -> Path:
        path = tmp_path / name
        raw = (r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else orjson.dumps(r) for r in rows)
        path.write_bytes(b"".join(line + b"\n" for line in raw))
        return path

    return lines
