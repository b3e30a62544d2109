"""What learns online beside the engine: a thread that keeps the answers, starts retrainings and takes over the better.

The engine's thread does no more than put an answer into a queue.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from presize.errors import first_line
from presize.predict.base import Query
from presize.predict.learned import Learned
from presize.predict.online.bound import Served
from presize.predict.online.home import CANDIDATE, NOT_BETTER, Home
from presize.predict.online.reservoir import Answer
from presize.predict.store import load

RETRAIN_EVERY, LEAST_ANSWERS = 500, 200
SAVE_EVERY = 64  # answers, which a kill may cost
_QUEUE = 8_192  # answers that wait for the thread; older ones are lost
_POLL_S = 0.5  # between looks at a retraining
_PATIENCE_S = 3600.0  # after which a retraining is given up
_END_S = 10.0  # for the thread and the child to end
_COMMAND = (sys.executable, "-P", "-m", "presize.predict.online.retrain")
_LOG = logging.getLogger("presize")


@dataclass(frozen=True, slots=True)
class Version:
    """What forecasts; replaced as a whole. number: 0 is the base."""

    number: int
    served: Served


@dataclass(frozen=True, slots=True)
class Retraining:
    """One that runs."""

    process: subprocess.Popen[bytes]
    candidate: Path
    errors: Path
    started: float


class Learner:
    """Owns the directory. version: what is to forecast; read it once for a batch. retraining: the one that
    runs. counts: what became of it all.

    `put` and `drifted` may be called from any thread and return at once; `start` begins the work, `turn` does some.
    """

    def __init__(self, directory: Path, base_directory: Path, base: Learned, retrain_every: int) -> None:
        """See `Home` for errors. One directory is learned in once: an earlier learner of this process is closed."""
        if (earlier := _OPEN.get(directory.resolve())) is not None:
            earlier.close()
        self.home = Home(directory, base_directory)
        _OPEN[directory.resolve()] = self
        self._base, self._every = base, retrain_every
        self.version = Version(self.home.version, Served(base, self.home.current))
        self.counts = self.home.counts
        self._arrived: deque[tuple[Query, int, bool]] = deque(maxlen=_QUEUE)
        self._notes: deque[tuple[int, str]] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._closed = threading.Lock()  # held for ever by the first to close
        self._thread: threading.Thread | None = None
        self.retraining: Retraining | None = None
        self._unsaved = 0
        self._process = os.getpid()
        self._failed_before = False

    def put(self, query: Query, output_tokens: int, censored: bool) -> None:
        """An answer, to be kept."""
        self._arrived.append((query, output_tokens, censored))
        if len(self._arrived) >= SAVE_EVERY:
            self._wake.set()

    def drifted(self, text: str, begins: bool) -> None:
        """An episode of drift begins, or ends: it is counted, and logged by the thread."""
        self.counts.drifts += begins
        self._notes.append((logging.WARNING if begins else logging.INFO, text))
        self._wake.set()

    def start(self) -> None:
        """Work on a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._run, name="presize-learner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the retraining, save, and let others learn in the directory; forecasts go on as they are."""
        if os.getpid() != self._process or not self._closed.acquire(blocking=False):
            return
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_END_S)
        if self._thread is None or not self._thread.is_alive():
            if self.retraining is not None:
                _end(self.retraining)
            self._guarded(self._keep)
        self.home.close()

    def turn(self) -> None:
        """Whatever is to be done now; does not raise, a failure is counted."""
        self._guarded(self._work)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(None if self.retraining is None else _POLL_S)
            self._wake.clear()
            if not self._closing.is_set():
                self.turn()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failed(f"{type(error).__name__}: {first_line(error)}")

    def _work(self) -> None:
        while self._notes:
            level, text = self._notes.popleft()
            _LOG.log(level, "%s", text)
        self._take_in()
        if self._unsaved >= SAVE_EVERY:
            self._keep()
        if self.retraining is not None:
            self._look_after(self.retraining)
        elif (
            self.counts.answers - self.counts.retrained_at >= self._every and len(self.home.reservoir) >= LEAST_ANSWERS
        ):
            self._begin()

    def _take_in(self) -> None:
        while self._arrived:
            query, output_tokens, censored = self._arrived.popleft()
            self.home.reservoir.add(Answer.of(query, self._base.features, output_tokens, censored))
            self.counts.answers += 1
            self._unsaved += 1

    def _keep(self) -> None:
        self._take_in()
        self.home.save(answers=self._unsaved > 0)
        self._unsaved = 0

    def _begin(self) -> None:
        self.counts.retrained_at = self.counts.answers
        self._keep()
        name = CANDIDATE + secrets.token_hex(4)
        errors = self.home.path / f"{name}.log"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {
            **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
            "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        try:
            with errors.open("wb") as log:
                process = subprocess.Popen(
                    [*_COMMAND, str(self.home.path), name, str(os.getpid())],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment,
                    start_new_session=True,  # Ctrl-C in a terminal is for the parent, which ends it
                )  # fmt: skip
        except OSError:
            errors.unlink(missing_ok=True)
            raise
        self.retraining = Retraining(process, self.home.path / name, errors, time.monotonic())

    def _look_after(self, child: Retraining) -> None:
        status = child.process.poll()
        if status is None and time.monotonic() - child.started < _PATIENCE_S:
            return
        self.retraining = None
        try:
            if status == 0:
                self._take_over(child.candidate)
            elif status == NOT_BETTER:
                self.counts.dropped += 1
            else:
                lines = child.errors.read_text(errors="replace").strip().splitlines()
                late = f"it took longer than {_PATIENCE_S:.0f} s"
                self._failed(late if status is None else lines[-1] if lines else f"exit status {status}")
        finally:
            _end(child)
            self._keep()

    def _take_over(self, candidate: Path) -> None:
        header, model = load(candidate)
        served = Served(self._base, Learned(model, header.features, header.calibration))
        self.home.take_over(candidate)
        self.version = Version(self.home.version, served)
        self.counts.taken_over += 1

    def _failed(self, reason: str) -> None:
        self.counts.failed += 1
        if not self._failed_before:
            self._failed_before = True
            _LOG.warning("learning online in %s failed (%s); forecasts go on as they were", self.home.path, reason)


def _end(child: Retraining) -> None:
    """End its process, and remove what it wrote."""
    if child.process.poll() is None:
        child.process.kill()
    child.process.wait(_END_S)
    child.errors.unlink(missing_ok=True)
    shutil.rmtree(child.candidate, ignore_errors=True)


_OPEN: weakref.WeakValueDictionary[Path, Learner] = weakref.WeakValueDictionary()
