"""A switch that an operator can reach while vLLM serves: a file that is there, or not."""

from __future__ import annotations

import threading
from pathlib import Path

_EVERY_S = 0.5


class Switch:
    """off: whether ``path`` was there when it was last looked for, on a thread of its own; without a path never."""

    def __init__(self, path: Path | None) -> None:
        self.off = path is not None and path.exists()
        self._closed = threading.Event()
        if path is not None:
            threading.Thread(target=self._watch, args=(path,), name="presize-switch", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _watch(self, path: Path) -> None:
        while not self._closed.wait(_EVERY_S):
            self.off = path.exists()
