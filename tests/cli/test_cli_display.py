"""Progress and tables: quiet where nobody looks, complete where somebody does."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from presize.cli.progress import Progress
from presize.cli.summary import FIELDS, cell, print_table, selected
from presize.cli.text import count, duration
from presize.cli.work import Counts
from presize.errors import shown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Snapshot:
    running, waiting = 3, 5
    kv_used_tokens, kv_booked_tokens, kv_capacity_tokens = 64, 96, 128

    def __init__(self, output_tokens: int) -> None:
        self.output_tokens = output_tokens


class Engine:
    """Counts how often it is asked; makes 100 tokens a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0

    def snapshot(self) -> Snapshot:
        self.asked += 1
        return Snapshot(round(100 * (self.clock.now - 100.0)))


def watch(console: Console, steps: int, seconds_a_step: float) -> Engine:
    clock = Clock()
    engine = Engine(clock)
    serving: Any = engine
    with Progress(console, clock) as progress:
        progress.report("loading weights", 1, 2)
        for step in range(1, steps + 1):
            clock.now += seconds_a_step
            progress.update(Counts(total=40, answered=step, failed=1), serving)
    return engine


def test_without_a_terminal_a_line_every_ten_seconds() -> None:
    out = io.StringIO()
    engine = watch(Console(file=out), steps=25, seconds_a_step=1.0)
    assert out.getvalue().splitlines() == [
        "presize: 11/40 rows; 1 failed; 111 tokens/s; KV 50% used, 75% booked; 3 running, 5 waiting; ETA 26s",
        "presize: 21/40 rows; 1 failed; 100 tokens/s; KV 50% used, 75% booked; 3 running, 5 waiting; ETA 18s",
    ]
    assert engine.asked == 2


def test_on_a_terminal_a_bar_that_is_gone_at_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    engine = watch(console, steps=25, seconds_a_step=0.1)
    text = out.getvalue()
    assert "loading weights 1/2" in text
    assert "rows" in text
    assert "tokens/s" in text
    assert 5 < engine.asked < 12  # not once a step
    assert text.endswith("\x1b[2K")  # the last line is cleared


def test_a_short_run_says_nothing() -> None:
    out = io.StringIO()
    watch(Console(file=out), steps=3, seconds_a_step=1.0)
    assert out.getvalue() == ""


def test_the_table_has_every_figure_of_every_policy() -> None:
    out = io.StringIO()
    names = [f"policy-number-{i}" for i in range(9)]
    print_table(Console(file=out), {name: dict.fromkeys(FIELDS, 1.5) for name in names})
    text = out.getvalue()
    assert all(name in text for name in names)
    assert all(label in text for label, _ in FIELDS.values())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12, "", "12"),
        (1234567, "", "1,234,567"),
        (3.0, "", "3"),
        (0.734, "%", "73.4"),
        (0.0891, "ms", "89.1"),
        (519.26, "tokens/s", "519.3"),
        (2695.4, "tokens/s", "2,695"),
        (0.25, "s", "0.25"),
        (float("nan"), "s", "-"),
        (None, "s", "-"),
    ],
)
def test_cells(value: float | None, unit: str, text: str) -> None:
    assert cell(value, unit) == text


def test_selected_is_in_the_order_of_the_fields() -> None:
    summary = {**dict.fromkeys(reversed(list(FIELDS)), 1), "other": 2}
    assert list(selected(summary)) == list(FIELDS)


def test_text() -> None:
    assert [duration(s) for s in (-1, 42.4, 185, 7620)] == ["0s", "42s", "3m05s", "2h07m"]
    assert [count(n, "row") for n in (0, 1, 1234)] == ["0 rows", "1 row", "1,234 rows"]
    assert len(shown("x" * 1000)) == 200
