"""Small pieces of text that several verbs need."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

PAGE_WIDTH = 100  # characters


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def paragraphs(*texts: str) -> str:
    """Texts wrapped to the width of a page of help, with blank lines between them."""
    return "\n\n".join(textwrap.fill(text, PAGE_WIDTH, break_on_hyphens=False) for text in texts)


def count(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``, ``1,234 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """``42s``, ``3m05s``, ``2h07m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
