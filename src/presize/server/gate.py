"""The bounded queue: a place is taken before a prompt is tokenized, and refused at once when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from presize.errors import OverloadedError

_CHARACTERS_PER_TOKEN = 4  # a guess until the prompt is tokenized


class Place:
    """Held from the acceptance of a request until the engine has all of it in its own queue."""

    def __init__(self, requests: int, tokens: int) -> None:
        self.requests, self.tokens = requests, tokens


class Gate:
    """Counts what waits: what is on its way to the engine, and what the engine says is in its queue.

    retry_after: seconds until ``count`` of the waiting have started, by the engine's forecast.
    """

    def __init__(self, max_requests: int, max_tokens: int, retry_after: Callable[[int], float]) -> None:
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._retry_after = retry_after
        self._coming: set[Place] = set()
        self.engine_requests = self.engine_tokens = 0  # as of the engine's last step

    @property
    def requests(self) -> int:
        """Sequences that wait."""
        return self.engine_requests + sum(place.requests for place in self._coming)

    @property
    def tokens(self) -> int:
        """Prompt tokens that wait."""
        return self.engine_tokens + sum(place.tokens for place in self._coming)

    @contextmanager
    def place(self, requests: int, characters: int) -> Iterator[Place]:
        """Room for so many sequences, with prompts of so many characters in all; OverloadedError if there is none."""
        place = Place(requests, characters // _CHARACTERS_PER_TOKEN)
        self._check(place)
        self._coming.add(place)
        try:
            yield place
        finally:
            self._coming.discard(place)

    def settle(self, place: Place, tokens: int) -> None:
        """The prompts have been tokenized: what they really need. OverloadedError as for `place`."""
        self._coming.discard(place)
        place.tokens = tokens
        self._check(place)
        self._coming.add(place)

    def entered(self, place: Place, requests: int, tokens: int) -> None:
        """The engine counts this part of it from now on."""
        place.requests -= requests
        place.tokens -= tokens

    def _check(self, place: Place) -> None:
        waiting = self.requests
        if waiting + place.requests > self._max_requests:
            raise OverloadedError(
                f"{waiting} sequences wait, and {self._max_requests} may",
                self._retry_after(waiting + place.requests - self._max_requests),
            )
        # what is alone is let in, however long: the engine says whether it can ever fit
        if self.tokens and self.tokens + place.tokens > self._max_tokens:
            raise OverloadedError(f"{self.tokens} prompt tokens wait, and {self._max_tokens} may", self._retry_after(1))
