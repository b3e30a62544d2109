"""The block pool: who holds which KV blocks, and how much is booked. A booking is accounting, not a place.

blocks:   [ free | held by a | held by b | free | ... ]      free + held == num_blocks, always
booked:   per request max(held, reserved); what is not booked may be promised to somebody new
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Pool(ABC):
    """``num_blocks`` blocks of ``block_size`` tokens, whoever keeps their accounts."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks is {num_blocks} and block_size {block_size}; both must be at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size

    @property
    def capacity_tokens(self) -> int:
        """Size of the pool in tokens."""
        return self.num_blocks * self.block_size

    @property
    @abstractmethod
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""

    @property
    def held_blocks(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - self.free_blocks

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens need."""
        return -(-tokens // self.block_size)


class Ledger(Pool):
    """Block accounting by request id."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        super().__init__(num_blocks, block_size)
        self._free = list(range(num_blocks - 1, -1, -1))  # popped from the end: low ids are reused first
        self._held: dict[str, list[int]] = {}
        self._reserved: dict[str, int] = {}
        self._booked = 0  # sum over requests of max(held, reserved)

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def unbooked_blocks(self) -> int:
        """Blocks that are neither held nor reserved."""
        return self.num_blocks - self._booked

    def held(self, request_id: str) -> Sequence[int]:
        """The request's block table, in token order."""
        return self._held.get(request_id, ())

    def missing(self, request_id: str, tokens: int) -> int:
        """Blocks that the request lacks to hold ``tokens`` tokens."""
        return max(self.blocks_for(tokens) - len(self._held.get(request_id, ())), 0)

    def allocate(self, request_id: str, tokens: int) -> bool:
        """Grow the request's table to hold ``tokens`` tokens; False, and nothing changed, if the pool is short."""
        count = self.missing(request_id, tokens)
        if count > len(self._free):
            return False
        table = self._held.setdefault(request_id, [])
        before = self._booking(request_id)
        for _ in range(count):
            table.append(self._free.pop())
        self._booked += self._booking(request_id) - before
        return True

    def release(self, request_id: str) -> int:
        """Give back all that the request holds and has reserved; the number of blocks freed."""
        self._booked -= self._booking(request_id)
        self._reserved.pop(request_id, None)
        table = self._held.pop(request_id, [])
        self._free.extend(reversed(table))
        return len(table)

    def reserve(self, request_id: str, tokens: int) -> None:
        """Book ``tokens`` tokens for the request (replaces an earlier booking)."""
        before = self._booking(request_id)
        self._reserved[request_id] = self.blocks_for(tokens)
        self._booked += self._booking(request_id) - before

    def _booking(self, request_id: str) -> int:
        return max(len(self._held.get(request_id, ())), self._reserved.get(request_id, 0))

    def reserved_blocks(self, request_id: str) -> int:
        """The request's booking, in blocks; 0 if it has none."""
        return self._reserved.get(request_id, 0)

    def check_integrity(self) -> None:
        """RuntimeError with the numbers unless every block is free or held by exactly one request."""
        seen = [block for table in self._held.values() for block in table] + self._free
        if len(seen) != self.num_blocks or set(seen) != set(range(self.num_blocks)):
            raise RuntimeError(
                f"KV ledger is broken: {len(self._free)} free + {len(seen) - len(self._free)} held "
                f"({len(set(seen))} distinct) != {self.num_blocks} blocks"
            )
