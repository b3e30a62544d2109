"""The times and counts of one answer, at moments that the test sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fake import DONE, delta, event, usage
from hypothesis import given
from hypothesis import strategies as st

from presize.load.answer import AnswerReader, BrokenAnswer, error_text
from presize.load.outcome import Outcome


def read(*parts: tuple[float, bytes], keep_text: bool = True) -> tuple[Outcome, list[int]]:
    """The outcome of parts that come at these moments after 100 s; and a 1 for each call of on_text."""
    outcome, calls = Outcome(), []
    reader = AnswerReader(outcome, 100.0, lambda: calls.append(1), keep_text=keep_text)
    for moment, raw in parts:
        reader.feed(raw, 100.0 + moment)
    reader.end()
    return outcome, calls


def text(value: str | None, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": value, "finish_reason": finish}]})


def test_the_first_token_is_the_first_frame_with_text() -> None:
    outcome, calls = read(
        (1, delta()), (2, delta("a")), (4, delta("b")), (7, delta("c")), (9, delta("", "stop")), (9, usage(5, 4)),
        (20, DONE),
    )  # fmt: skip
    assert (outcome.ttft_s, outcome.e2el_s, outcome.gaps_s) == (2, 9, [2, 3])
    assert (outcome.input_tokens, outcome.output_tokens, outcome.frames) == (5, 4, 3)
    assert (outcome.finish_reason, outcome.text, calls) == ("stop", "abc", [1, 1, 1])
    assert outcome.tpot_s == pytest.approx((9 - 2) / 3)


def test_tpot_is_not_itl_where_a_frame_has_several_tokens() -> None:
    outcome, _ = read((2, text("ab")), (12, text("cdef", "length")), (12, usage(1, 11)), (12, DONE), keep_text=False)
    assert outcome.gaps_s == [10]
    assert outcome.tpot_s == pytest.approx(1)
    assert outcome.text == ""


def test_without_a_count_frames_are_tokens() -> None:
    outcome, _ = read((2, text("a")), (5, text("b")), (8, text("c", "stop")))
    assert (outcome.output_tokens, outcome.tokens, outcome.tpot_s) == (None, 3, 3)


def test_an_answer_of_one_token_has_no_tpot() -> None:
    outcome, _ = read((2, text("a", "length")), (2, usage(1, 1)))
    assert (outcome.ttft_s, outcome.tpot_s, outcome.gaps_s) == (2, None, [])


def test_an_answer_without_text_has_its_first_token_at_its_end() -> None:
    outcome, _ = read((1, delta()), (3, delta("", "length")), (4, usage(1, 2)), (5, DONE))
    assert (outcome.ttft_s, outcome.e2el_s, outcome.frames) == (3, 3, 0)
    nothing, _ = read((3, delta("", "stop")), (4, usage(1, 0)))
    assert (nothing.ttft_s, nothing.tpot_s) == (None, None)


def test_thoughts_are_tokens_too() -> None:
    thought = event({"choices": [{"delta": {"reasoning_content": "hm", "content": None}}]})
    outcome, _ = read((1, thought), (2, delta("so")), (3, DONE))
    assert (outcome.ttft_s, outcome.gaps_s, outcome.text) == (1, [1], "hmso")


@given(places=st.lists(st.integers(1, 400), max_size=10))
def test_where_the_bytes_are_cut_does_not_matter(places: list[int]) -> None:
    raw = b": ping\r\n\r\n" + delta() + delta("é") + delta("漢字") + delta("", "stop") + usage(5, 4) + DONE
    edges = [0, *sorted(place % len(raw) for place in places), len(raw)]
    outcome, calls = read(*((1.0, raw[a:b]) for a, b in pairwise(edges)))
    assert (outcome.text, outcome.frames, outcome.output_tokens, len(calls)) == ("é漢字", 2, 4, 2)


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ([b"data: {\n\n"], "protocol", "can not be read"),
        ([b"data: \xff\n\n"], "protocol", "can not be read"),
        ([b"data: 5\n\n"], "protocol", "not an object"),
        ([delta("a")], "protocol", "ended after 1 frames, before its end"),
        ([], "protocol", "ended after 0 frames"),
        ([delta("a"), event({"error": {"message": "no  memory"}}), DONE], "stream", "no memory"),
        ([event({"error": 7})], "stream", "7"),
    ],
)
def test_broken_streams(parts: list[bytes], kind: str, words: str) -> None:
    with pytest.raises(BrokenAnswer) as error:
        read(*((1.0, part) for part in parts))
    assert error.value.failure.kind == kind
    assert words in error.value.failure.message


@pytest.mark.parametrize("frame", [{}, {"choices": None}, {"choices": [5]}, {"choices": [{}], "usage": {"x": 1}}])
def test_frames_that_say_nothing_are_passed_over(frame: dict[str, object]) -> None:
    outcome, calls = read((1, event(frame)), (1, b"data:\n\n"), (2, text("a", "stop")))
    assert (outcome.ttft_s, calls, outcome.output_tokens) == (2, [1], None)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "a\nb"}}, "a b"),
        ({"error": "a"}, "a"),
        ({"message": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"msg": "a"}]}, ""),
        ([], ""),
        ("a", ""),
    ],
)
def test_messages_of_errors(body: object, text: str) -> None:
    assert error_text(body) == text
