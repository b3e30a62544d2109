"""The directory of a predictor that goes on learning: what is in it, and how it changes in one move.

lock                   held while a process learns in it
base/                  the predictor that it started from, never changed
v000007/               the one that was taken over last, as `presize learn` writes them
current                a link to it; none before the first
reservoir.safetensors  the answers that are learned from: prompts, as token ids
state.json             counts
candidate-*            what a retraining writes; those of one that was killed are removed at the next start
*.damaged              what could not be read, set aside
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from presize.errors import ConfigError, ModelError, first_line
from presize.predict.learned import Learned
from presize.predict.online.reservoir import Reservoir
from presize.predict.store import HEADER, WEIGHTS
from presize.whole_file import replace_file

LOCK, BASE, CURRENT, RESERVOIR, STATE = "lock", "base", "current", "reservoir.safetensors", "state.json"
CANDIDATE = "candidate-"
NOT_BETTER, ORPHAN = 3, 4  # exit statuses of a retraining
_TEMPORARY = (f".{BASE}-", f".{CURRENT}-", f".{RESERVOIR}-", f".{STATE}-", f".{CANDIDATE}")
_FORMAT = 1
_LOG = logging.getLogger("presize")


@dataclass(slots=True)
class Counts:
    """Since the directory was made. answers: seen; retrained_at: of them, at the last retraining.

    taken_over, dropped: versions that were better, and that were not. failed: retrainings that came to nothing, and
    times that the directory could not be written. drifts: episodes.
    """

    answers: int = 0
    retrained_at: int = 0
    taken_over: int = 0
    dropped: int = 0
    failed: int = 0
    drifts: int = 0


class Home:
    """An open directory; `close` it.

    version: number of the predictor that ``current`` links to, 0 if there is none. counts, reservoir, current (None if
    there is none): as they were found; one that was damaged is set aside, which is logged.
    """

    def __init__(self, path: Path, base: Path) -> None:
        """Make ``path`` or go on with it; ``base``: directory of the predictor to start from.

        ConfigError if it can not be used, another process learns in it, or it holds other things; ModelError if it
        goes on from another base.
        """
        self.path, self._lock = path, _locked(path)
        try:
            self._check(base)
            self._tidy()
            self.counts: Counts = self._read(STATE, _counts) or Counts()
            self.reservoir: Reservoir = self._read(RESERVOIR, Reservoir.read) or Reservoir()
            self.current: Learned | None = self._read(CURRENT, lambda link: Learned.load(link.resolve()))
        except OSError as error:
            self.close()
            raise ConfigError(f"learn_online is {path}; it can not be used: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """See the class."""
        try:
            return int(os.readlink(self.path / CURRENT)[1:])
        except (FileNotFoundError, ValueError):
            return 0

    def save(self, *, answers: bool) -> None:
        """Keep the counts, and, if asked, the answers."""
        if answers:
            self.reservoir.write(self.path / RESERVOIR)
        replace_file(self.path / STATE, json.dumps({"format": _FORMAT, **asdict(self.counts)}).encode())

    def take_over(self, candidate: Path) -> None:
        """The predictor in ``candidate``, a directory in this one, becomes the current one in one move."""
        before, number = self.version, self.version + 1
        target = self.path / _name(number)
        _remove(target)
        candidate.rename(target)
        link = self.path / f".{CURRENT}-new"
        _remove(link)
        link.symlink_to(target.name)
        link.replace(self.path / CURRENT)
        _remove(self.path / _name(before))

    def close(self) -> None:
        """Let others learn in it."""
        self._lock.release()

    def _check(self, base: Path) -> None:
        kept = self.path / BASE
        if not kept.exists():
            if any(path.name != LOCK and not path.name.startswith(_TEMPORARY) for path in self.path.iterdir()):
                raise ConfigError(f"learn_online is {self.path}; it holds other files: name a directory of its own")
            work = Path(tempfile.mkdtemp(prefix=f".{BASE}-", dir=self.path))
            for path in base.iterdir():
                if path.is_file():
                    shutil.copyfile(path, work / path.name)
            work.rename(kept)
        elif _identity(kept) != _identity(base):
            raise ModelError(
                f"{self.path} goes on from another predictor than {base}: name another directory with --learn-online, "
                f"or {kept} with --predictor"
            )

    def _tidy(self) -> None:
        """Remove what a killed process left."""
        kept = _name(self.version)
        for path in self.path.iterdir():
            is_version = path.name[:1] == "v" and path.name[1:].isdigit()
            if path.name.startswith((*_TEMPORARY, CANDIDATE)) or (is_version and path.name != kept):
                _remove(path)

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """None if it is not there, or damaged."""
        path = self.path / name
        if not os.path.lexists(path):
            return None
        try:
            return read(path)
        except (OSError, ValueError, RecursionError, ModelError) as error:
            aside = self.path / f"{name}.damaged"
            content = path.resolve()
            _remove(aside)
            if content.exists():
                content.rename(aside)
            _remove(path)
            _LOG.warning("%s is damaged (%s); it is set aside as %s", path, first_line(error), aside.name)
            return None


def _name(version: int) -> str:
    return f"v{version:06d}"


def _locked(path: Path) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(path / LOCK, thread_local=False)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"learn_online is {path}; another process learns in it: name another directory, or end that process"
        ) from error
    except OSError as error:
        raise ConfigError(f"learn_online is {path}; it can not be used: {error.strerror or error}") from error
    return lock


def _identity(base: Path) -> bytes:
    try:
        return b"".join(hashlib.blake2b((base / name).read_bytes()).digest() for name in (HEADER, WEIGHTS))
    except FileNotFoundError:
        return b""


def _counts(path: Path) -> Counts:
    raw = json.loads(path.read_bytes())
    if not isinstance(raw, dict) or raw.pop("format", None) != _FORMAT:
        raise ValueError("it is of another version of Presize")
    if not all(type(value) is int and value >= 0 for value in raw.values()):
        raise ValueError("counts must be whole numbers")
    try:
        return Counts(**raw)
    except TypeError as error:
        raise ValueError(first_line(error)) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
