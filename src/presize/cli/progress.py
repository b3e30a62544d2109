"""Progress on standard error: a live display on a terminal, one quiet line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from presize.cli.text import duration
from presize.cli.work import Counts, Serving, Snapshot

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LIVE_EVERY_S = 0.25
LOG_EVERY_S = 10.0
RATE_WINDOW_S = 10.0  # tokens/s is over this much of the past


class Progress:
    """Shows loading, then work. No thread of its own: it draws when it is called, at most once per interval."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._interactive = console.is_terminal and not console.is_dumb_terminal
        self._every_s = LIVE_EVERY_S if self._interactive else LOG_EVERY_S
        self._next = clock() + (0.0 if self._interactive else LOG_EVERY_S)
        self._live: Live | None = None
        self._label = ""
        self.start("")

    def start(self, label: str) -> None:
        """A new piece of work, such as the next policy; its label comes before its figures."""
        self._label = label
        self._samples: deque[tuple[float, int]] = deque()  # (seconds, output tokens so far)
        self._total = -1
        self._started_s = 0.0  # when the last row was read, which is when steps begin

    def __enter__(self) -> Progress:
        if self._interactive:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"presize: {text}", markup=False, highlight=False, soft_wrap=True)

    def report(self, stage: str, done: int, total: int) -> None:
        """Loading, as the engine reports it."""
        if self._due():
            self._show(f"{stage} {done:,}/{total:,}" if total else stage, done, total)

    def update(self, counts: Counts, engine: Serving) -> None:
        """Work, after each row that is read and each step; asks the engine for figures only when it draws."""
        now = self._clock()
        if counts.total != self._total:
            self._total, self._started_s = counts.total, now
            self._samples = deque([(now, 0)])
        if self._due():
            snapshot = engine.snapshot()
            self._show(self._describe(counts, snapshot, now), counts.done, counts.total)

    def _due(self) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True

    def _describe(self, counts: Counts, snapshot: Snapshot, now: float) -> str:
        parts = [f"{counts.done:,}/{counts.total:,} rows"]
        if counts.failed:
            parts.append(f"{counts.failed:,} failed")
        if (rate := self._rate(now, snapshot.output_tokens)) is not None:
            parts.append(f"{rate:,.0f} tokens/s")
        if capacity := snapshot.kv_capacity_tokens:
            used, booked = snapshot.kv_used_tokens / capacity, snapshot.kv_booked_tokens / capacity
            parts.append(f"KV {used:.0%} used, {booked:.0%} booked")
        parts.append(f"{snapshot.running:,} running, {snapshot.waiting:,} waiting")
        if counts.answered:
            left = (counts.total - counts.done) / counts.answered * (now - self._started_s)
            parts.append(f"ETA {duration(left)}")
        text = "; ".join(parts)
        return f"{self._label}: {text}" if self._label else text

    def _rate(self, now: float, tokens: int) -> float | None:
        self._samples.append((now, tokens))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        return (tokens - before) / (now - then) if now > then and tokens else None

    def _show(self, text: str, done: int, total: int) -> None:
        if self._live is None:
            self.say(text)
        else:
            self._live.update(_bar(text, done, total), refresh=True)


def _bar(text: str, done: int, total: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    bar = ProgressBar(total=max(total, 1), completed=done, width=40)
    return Group(bar, Text(text, overflow="ellipsis", no_wrap=True))
