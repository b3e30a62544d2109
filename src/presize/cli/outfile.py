"""The output: JSON lines, each complete or not there at all, so that a run can be killed and gone on with."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol

import orjson

from presize.cli.text import count
from presize.errors import ConfigError, PresizeError

_FIRST_BYTES = b'{"id":'  # of every line that is written here
ABORTED = "abort"  # finish_reason of an answer that was stopped before its end
_MARKS = {"error", "text", "output_tokens"}  # one of them is in every line


class OutputError(PresizeError):
    """A row could not be written; what was written before is complete."""


class Sink(Protocol):
    """Where rows go. ``done`` holds the ids (as text) that an earlier run answered."""

    done: frozenset[str]

    def begin(self) -> None:
        """The model is loaded: now the file may change."""

    def write(self, *rows: dict[str, Any]) -> None:
        """Append the rows, all or none; OutputError if they do not fit."""

    def close(self) -> None:
        """Flush to the disk; OutputError if that fails."""


class StdoutSink:
    """Rows to standard output, flushed one by one."""

    done: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Nothing to prepare."""

    def write(self, *rows: dict[str, Any]) -> None:
        """Write and flush, always as UTF-8."""
        sys.stdout.buffer.write(_lines(rows))
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Standard output stays open for the summary."""


class FileSink:
    """Rows to a file; one call of the system for each ``write``, and what was cut short is taken back.

    The constructor only looks: ``begin`` changes the file. So a run that fails to load its model harms nothing.
    """

    def __init__(self, path: str, *, resume: bool = False, overwrite: bool = False, not_this: str | None = None):
        self.shown_path = path
        self.path = os.path.realpath(path)  # a link stays a link when the file is replaced
        self.done: frozenset[str] = frozenset()
        self.written = 0  # rows in this run
        self._again: set[int] = set()  # lines of an earlier run whose rows are tried again: errors, samples that lack
        self._resume, self._overwrite = resume, overwrite
        if not_this is not None and os.path.exists(self.path) and os.path.samefile(self.path, not_this):
            raise ConfigError(f"--output {path} is the input itself; give another file")
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(f"--output {path} can not be written: {error.strerror or error}") from error
        status = os.fstat(self._fd)
        self._regular = stat.S_ISREG(status.st_mode)
        self._size = status.st_size if self._regular else 0
        if resume and self._regular:
            self._scan()
        elif self._size and not overwrite:
            os.close(self._fd)
            raise ConfigError(
                f"--output {path} has rows already; add --resume to go on with it or --overwrite to replace it"
            )

    def begin(self) -> None:
        """Truncate (``overwrite``), or drop a torn last line and the rows that are tried again (``resume``)."""
        try:
            if not self._regular:
                return
            if self._overwrite:
                self._size = 0
            elif self._again:
                self._drop_lines()
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, *rows: dict[str, Any]) -> None:
        """Append the rows; BrokenPipeError and interrupts pass through, other failures are an OutputError."""
        lines = _lines(rows)
        try:
            sent = os.write(self._fd, lines)
            while sent < len(lines):  # a file that is nearly full takes a part first
                sent += os.write(self._fd, lines[sent:])
        except BaseException as error:
            if self._regular:
                with suppress(OSError):
                    os.ftruncate(self._fd, self._size)
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise self._failure(error) from error
            raise
        self._size += len(lines)
        self.written += 1

    def close(self) -> None:
        """Some file systems report a full disk only here."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self._regular:
                os.fsync(fd)
        except OSError as error:
            raise self._failure(error) from error
        finally:
            os.close(fd)

    def _failure(self, error: OSError) -> OutputError:
        safe = f"{count(self.written, 'row')} of this run {'is' if self.written == 1 else 'are'} in it"
        return OutputError(
            f"--output {self.shown_path} can not be written: {error.strerror or error}; {safe}, and --resume goes on"
        )

    def _scan(self) -> None:
        """Find what is done, where the last complete line ends and which lines have to go."""
        done: set[str] = set()
        partial: dict[str, list[int]] = {}  # lines of a row that has several
        stopped: set[str] = set()
        complete = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if not (line.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(line)):
                        self._refuse(number)
                    break
                complete += len(line)
                row = self._parsed(number, line)
                key = str(row["id"])
                if "error" in row:
                    self._again.add(number)
                    continue
                lines = partial.setdefault(key, [])
                lines.append(number)
                if row.get("finish_reason") == ABORTED:
                    stopped.add(key)
                samples = row.get("samples")
                if key not in stopped and len(lines) >= (samples if isinstance(samples, int) else 1):
                    done.add(key)
                    del partial[key]
        self._again.update(number for lines in partial.values() for number in lines)
        self.done = frozenset(done)
        self._size = complete

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        row: object = None
        with suppress(orjson.JSONDecodeError):
            row = orjson.loads(line)
        if not isinstance(row, dict) or "id" not in row or not row.keys() & _MARKS:
            self._refuse(number)
        return row

    def _refuse(self, number: int) -> NoReturn:
        os.close(self._fd)
        raise ConfigError(
            f"line {number} of --output {self.shown_path} is not a row that Presize wrote, so --resume can not go on "
            "with it; give another file"
        )

    def _drop_lines(self) -> None:
        """Write the other lines to a new file beside the old one, then put it in the old one's place."""
        temporary = f"{self.path}.{os.getpid()}.tmp"
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        new = os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(self.path, "rb") as old, open(new, "wb", closefd=False) as file:
                for number, line in enumerate(old, 1):
                    if number not in self._again and line.endswith(b"\n"):
                        file.write(line)
            os.fsync(new)
            os.replace(temporary, self.path)
        except BaseException:
            os.close(new)
            with suppress(OSError):
                os.unlink(temporary)
            raise
        os.close(self._fd)
        self._fd, self._size, self._again = new, os.fstat(new).st_size, set()


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS) + b"\n" for row in rows)


def open_output(path: str, *, resume: bool, overwrite: bool, input_path: str) -> Sink:
    """The sink for ``--output``; ConfigError if nothing can be written there."""
    if path == "-":
        if resume or overwrite:
            raise ConfigError("--resume and --overwrite need a file; --output is standard output")
        return StdoutSink()
    return FileSink(path, resume=resume, overwrite=overwrite, not_this=None if input_path == "-" else input_path)
