"""`presize serve` as a process of its own, for the benchmarks that load it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time

import psutil

PRESIZE = (sys.executable, "-m", "presize.cli.main")


class Served:
    """A server with some arguments, on a free port, from `__enter__` to `__exit__`; SIGTERM ends it."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.status: int | None = None

    def __enter__(self) -> Served:
        # a file, not a pipe: nobody reads while the load runs
        self._log = tempfile.TemporaryFile()
        command = [*PRESIZE, "serve", *self._arguments, "--port", "0", "--log-interval", "0"]
        self._process = subprocess.Popen(command, stderr=self._log)
        while " ready " not in (text := self.log()):
            if self._process.poll() is not None:
                raise SystemExit(f"the server did not start: {text}")
            time.sleep(0.1)
        match = re.search(r"listening url=(\S+)", text)
        assert match is not None, text
        self.url = match.group(1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self.status = self._process.wait(60)
        self._log.close()

    def log(self) -> str:
        """All lines so far."""
        self._log.seek(0)
        return self._log.read().decode()

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)
