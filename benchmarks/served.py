"""A server as a process of its own, for the benchmarks that load it: Presize's, or a peer's."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

import psutil

PRESIZE = (sys.executable, "-m", "presize.cli.main")
_START_S = 300.0


class Served:
    """A command that serves HTTP on the ``--port`` it is given, from `__enter__` to `__exit__`; SIGTERM ends it.

    It is there once /health says so, with 200.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command, self._environment = command, environment
        self.status: int | None = None

    def __enter__(self) -> Served:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # a file, not a pipe: nobody reads while the load runs
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [*self._command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=self._log, stderr=self._log, env=self._environment,
        )  # fmt: skip
        end = time.monotonic() + _START_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                raise SystemExit(f"the server did not start: {self._tail()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self.status = self._process.wait(60)
        self._log.close()

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-4000:]


def presize(*arguments: str) -> Served:
    """Presize's own server."""
    return Served([*PRESIZE, "serve", *arguments, "--log-interval", "0"])
