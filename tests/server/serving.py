"""A real server process on a tiny model, and what tests want to know of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai

START_S = 120


class Server:
    """`presize serve` with some flags, on a free port. ``log``: its lines so far."""

    def __init__(self, model: Path, *flags: str, wait: bool = True) -> None:
        environ = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        base = ["--port", "0", "--kv-tokens", "2048", "--threads", "1", "--log-interval", "0.2"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "presize.cli.main", "serve", str(model), *base, *flags],
            stderr=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        self.log: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self.line(r"listening url=(\S+)").group(1)
            if wait:
                self.line(r" ready ")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.log.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.log.append("")
            self._news.notify_all()

    def line(self, pattern: str, timeout: float = START_S) -> re.Match[str]:
        """The first line of the log that has the pattern, once it is there."""

        def found() -> re.Match[str] | None:
            return next((m for line in self.log if (m := re.search(pattern, line))), None)

        with self._news:
            self._news.wait_for(lambda: found() or self.log[-1:] == [""], timeout)
            match = found()
        assert match is not None, "\n".join(self.log)
        return match

    def client(self, **options: Any) -> openai.OpenAI:
        """The official client; it does not try again by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A plain GET."""
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A plain POST of JSON."""
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def metric(self, name: str, **labels: str) -> float:
        """One number of /metrics; several with the same labels are added."""
        total, seen = 0.0, False
        for line in self.get("/metrics").text.splitlines():
            match = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{k}="{v}"' in (match.group(1) or "") for k, v in labels.items()):
                total, seen = total + float(match.group(2)), True
        assert seen, f"no metric {name}"
        return total

    def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Ask again and again until it holds: a server's state has no event that a test could wait for."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "\n".join(self.log)
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(10)
            assert self.process.stderr is not None
            self.process.stderr.close()
