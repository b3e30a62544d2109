"""Server-sent events, wherever the bytes are cut."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.load import sse
from presize.load.sse import EventParser, EventTooLong

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
VALUES = st.binary(max_size=20).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
NOISE = st.sampled_from([b": ping", b"event: delta", b"id: 7", b"retry: 5", b"data2: x", b"dat"])
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def parsed_by(parser: EventParser, chunks: Iterable[bytes]) -> list[bytes]:
    return [data for chunk in chunks for data in parser.feed(chunk)]


def parsed(*chunks: bytes) -> list[bytes]:
    return parsed_by(EventParser(), chunks)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Bytes of a stream, and the data of its events."""
    raw, found = b"", []
    for lines in draw(st.lists(st.lists(VALUES, max_size=3), max_size=5)):
        for value in lines:
            if draw(st.booleans()):
                raw += draw(NOISE) + draw(ENDS)
            space = b" " if value.startswith(b" ") or draw(st.booleans()) else b""
            raw += b"data:" + space + value + draw(ENDS)
        # LF here: after a line that ended in CR a lone LF would be its second half
        raw += b"\r\n" if raw.endswith(b"\r") else draw(ENDS)
        if lines:
            found.append(b"\n".join(lines))
    return raw, found


@given(stream=streams(), places=CUTS, bom=st.booleans(), rest=st.sampled_from([b"", b"data: not the end\n", b"\xff"]))
def test_every_event_once_and_in_order(
    stream: tuple[bytes, list[bytes]], places: list[int], bom: bool, rest: bytes
) -> None:
    raw, found = stream
    raw = b"\xef\xbb\xbf" * bom + raw + rest
    assert parsed(*cut(raw, places)) == found


@given(raw=st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"x", b"\xef\xbb\xbf"])).map(b"".join),
       places=CUTS)  # fmt: skip
def test_any_bytes_are_read_as_the_standard_says_and_cuts_do_not_matter(raw: bytes, places: list[int]) -> None:
    *lines, _ = re.split(rb"\r\n|\r|\n", raw.removeprefix(b"\xef\xbb\xbf"))
    expected, data = [], []
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            expected.append(b"\n".join(data))
            data = []
    assert parsed(raw) == expected
    assert parsed(*cut(raw, places)) == expected


@pytest.mark.parametrize("part", [b"x" * 64, b"data: x\n", b"data:\n"])
def test_an_event_without_an_end_is_given_up(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MOST_BYTES", 256)
    parser = EventParser()
    with pytest.raises(EventTooLong):
        parsed_by(parser, [part] * 300)
