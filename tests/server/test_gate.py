"""The bounded queue: what is on its way and what the engine has count once, and only once."""

from __future__ import annotations

import pytest

from presize.errors import OverloadedError
from presize.server.gate import Gate


def gate(requests: int = 4, tokens: int = 100) -> Gate:
    return Gate(requests, tokens, lambda count: 10.0 * count)


def test_what_has_entered_the_engine_is_not_counted_on_its_way_any_more() -> None:
    queue = gate()
    with queue.place(3, characters=40) as place:
        queue.settle(place, 60)
        assert (queue.requests, queue.tokens) == (3, 60)
        queue.entered(place, 2, 40)
        queue.engine_requests, queue.engine_tokens = 2, 40  # the engine says so in the same breath
        assert (queue.requests, queue.tokens) == (3, 60)
        with queue.place(1, characters=4):
            assert queue.requests == 4
    assert (queue.requests, queue.tokens) == (2, 40)


def test_what_is_too_much_is_told_when_there_is_room() -> None:
    queue = gate()
    queue.engine_requests = 3
    with pytest.raises(OverloadedError, match="3 sequences wait, and 4 may") as caught, queue.place(3, 4):
        pass
    assert caught.value.retry_after_s == 20.0  # two of the three must start first
    assert queue.requests == 3


def test_tokens_are_a_guess_until_they_are_known() -> None:
    queue = gate()
    queue.engine_tokens = 50
    with queue.place(1, characters=120) as place:  # 30 tokens, it is thought
        with pytest.raises(OverloadedError, match="50 prompt tokens wait, and 100 may"):
            queue.settle(place, 60)
        assert queue.tokens == 50


def test_a_long_prompt_may_wait_alone() -> None:
    queue = gate()
    with queue.place(1, characters=4000) as place:
        queue.settle(place, 1000)
        with pytest.raises(OverloadedError), queue.place(1, characters=4):
            pass
