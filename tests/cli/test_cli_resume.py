"""The output file of `presize generate`: signals, torn lines, full disks, and going on afterwards."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presize.cli.main import main

Write = Callable[..., Path]
Rows = Callable[[Path], dict[Any, dict[str, Any]]]
ROWS: list[dict[str, Any]] = [{"id": f"r{i}", "prompt": f"question {i}"} for i in range(8)]


def test_an_output_with_rows_is_refused_before_the_model_is_loaded(
    loader: Any, run: Any, write_jsonl: Write, out: Path, capsys: Any, by_id: Rows
) -> None:
    out.write_text('{"id": "a", "text": "old"}\n')
    source = write_jsonl(*ROWS)
    assert run(source) == 2
    error = capsys.readouterr().err
    assert "--resume" in error
    assert "--overwrite" in error
    assert not loader.engines
    assert "old" in out.read_text()
    assert run(source, "--overwrite") == 0
    assert set(by_id(out)) == {row["id"] for row in ROWS}


def test_a_model_that_does_not_load_harms_no_output(
    loader: Any, run: Any, write_jsonl: Write, out: Path, capsys: Any
) -> None:
    def fail(engine: Any) -> None:
        raise MemoryError

    loader.prepare = fail
    for flag in ("--overwrite", "--resume"):
        out.write_bytes(before := b'{"id":"r0","text":"old"}\n{"id":"r1","line":2,"error":"x"}\n{"id":"r2","te')
        assert run(write_jsonl(*ROWS), flag) == 1
        assert out.read_bytes() == before
        assert "out of memory; lower --kv-tokens" in capsys.readouterr().err


@pytest.mark.parametrize("torn", ["last line", "everything"])
def test_resume_after_a_cut_at_any_byte(torn: str, run: Any, write_jsonl: Write, out: Path, by_id: Rows) -> None:
    source = write_jsonl(*ROWS)
    assert run(source) == 0
    whole, wanted = out.read_bytes(), by_id(out)
    first = whole[:-1].rfind(b"\n") + 1 if torn == "last line" else 0
    for cut in range(first, len(whole) + 1, 1 if torn == "last line" else 7):
        out.write_bytes(whole[:cut])
        assert run(source, "--resume") == 0
        assert by_id(out) == wanted


@pytest.mark.parametrize("stop_at", range(1, 8))
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_valid_file_that_resume_goes_on_with(
    signum: int,
    status: int,
    stop_at: int,
    loader: Any,
    run: Any,
    write_jsonl: Write,
    out: Path,
    capsys: Any,
    by_id: Rows,
) -> None:
    def interrupt(steps: int) -> None:
        if steps == stop_at:
            signal.raise_signal(signum)

    def prepare(engine: Any) -> None:
        engine.on_step = interrupt

    before = signal.getsignal(signum)
    source = write_jsonl(*ROWS)
    loader.prepare = prepare
    assert run(source) == status
    done = by_id(out)
    captured = capsys.readouterr()
    assert f"presize: stopped; {len(done)} row" in captured.err
    assert "--resume" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert signal.getsignal(signum) == before
    loader.prepare = lambda engine: None
    assert run(source, "--resume") == 0
    assert set(by_id(out)) == {row["id"] for row in ROWS}
    assert {request_id for request_id, _, _ in loader.engines[-1].seen} == set(by_id(out)) - set(done)


def test_keyboard_interrupt_from_anywhere_is_130(loader: Any, run: Any, write_jsonl: Write) -> None:
    def interrupt(steps: int) -> None:
        raise KeyboardInterrupt

    def prepare(engine: Any) -> None:
        engine.on_step = interrupt

    loader.prepare = prepare
    assert run(write_jsonl(*ROWS)) == 130


def test_errors_are_tried_again(run: Any, write_jsonl: Write, out: Path, lines_of: Any) -> None:
    assert run(write_jsonl({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "refuse"})) == 1
    os.chmod(out, 0o640)
    link = out.with_name("link.jsonl")
    link.symlink_to(out)
    better = write_jsonl({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    assert main(["generate", str(better), "--output", str(link), "--resume"]) == 0
    assert [row["id"] for row in lines_of(out)] == ["a", "b"]
    assert all("text" in row for row in lines_of(out))
    assert link.is_symlink()
    assert out.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in out.parent.iterdir()) == ["in.jsonl", "link.jsonl", "out.jsonl"]


def test_resume_without_a_file_starts(run: Any, write_jsonl: Write, out: Path, by_id: Rows) -> None:
    assert run(write_jsonl(*ROWS), "--resume") == 0
    assert len(by_id(out)) == 8


@pytest.mark.parametrize("content", [b"notes\n", b"notes", b"[1]\n", b'{"id": 1}\n', b'{"text": "x"}\n', b"\0\0\n"])
def test_resume_never_touches_a_file_that_is_not_presizes(
    content: bytes, loader: Any, run: Any, write_jsonl: Write, out: Path, capsys: Any
) -> None:
    out.write_bytes(content)
    assert run(write_jsonl(*ROWS), "--resume") == 2
    assert "line 1 of --output" in capsys.readouterr().err
    assert out.read_bytes() == content
    assert not loader.engines


@pytest.mark.parametrize("takes", [0, 10])
def test_a_full_disk_is_one_sentence_and_the_file_stays_valid(
    takes: int, run: Any, write_jsonl: Write, out: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, by_id: Rows
) -> None:
    real, calls = os.write, 0

    def write(fd: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 4 and takes:
            return real(fd, data[:takes])
        if calls >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    source = write_jsonl(*ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert run(source) == 1
    assert len(by_id(out)) == 3
    captured = capsys.readouterr()
    assert "No space left on device; 3 rows of this run are in it, and --resume goes on" in captured.err
    assert "Traceback" not in captured.err
    assert run(source, "--resume") == 0
    assert len(by_id(out)) == 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    assert main(["generate", str(write_jsonl(*ROWS)), "--output", "/dev/full"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_disk_that_reports_at_the_end(
    run: Any, write_jsonl: Write, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert run(write_jsonl(*ROWS)) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_the_input_is_not_lost_by_overwrite(run: Any, write_jsonl: Write, out: Path) -> None:
    source = write_jsonl(*ROWS)
    before = source.read_bytes()
    out.symlink_to(source)
    assert run(source, "--overwrite") == 2
    assert source.read_bytes() == before


def test_no_line_is_written_in_pieces(run: Any, write_jsonl: Write, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.write, []

    def write(fd: int, data: Any) -> int:
        written.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    assert run(write_jsonl(*ROWS)) == 0
    assert b"".join(written) == out.read_bytes()
    assert all(piece.count(b"\n") == 1 and piece.endswith(b"\n") for piece in written)
