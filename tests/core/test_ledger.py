"""The block pool under every sequence of operations, and under damage."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from presize.core.ledger import Ledger

IDS = st.sampled_from("abcde")
TOKENS = st.integers(0, 60)


class LedgerMachine(RuleBasedStateMachine):
    """Model: what each request should hold and have booked, as numbers alone."""

    @initialize(blocks=st.integers(1, 12), size=st.integers(1, 8))
    def start(self, blocks: int, size: int) -> None:
        self.ledger = Ledger(blocks, size)
        self.held: dict[str, int] = {}
        self.booked: dict[str, int] = {}

    def tables(self) -> dict[str, list[int]]:
        return {key: list(self.ledger.held(key)) for key in "abcde"}

    @rule(key=IDS, tokens=TOKENS)
    def allocate(self, key: str, tokens: int) -> None:
        before = self.tables()
        free = self.ledger.free_blocks
        wanted = max(math.ceil(tokens / self.ledger.block_size), self.held.get(key, 0))
        assert self.ledger.missing(key, tokens) == wanted - self.held.get(key, 0)
        done = self.ledger.allocate(key, tokens)
        assert done == (wanted - self.held.get(key, 0) <= free)
        after = self.tables()
        if done:
            self.held[key] = wanted
            # keys and values stay where they are: a table only grows at its end
            assert after[key][: len(before[key])] == before[key]
            before[key] = after[key]
        assert after == before

    @rule(key=IDS, tokens=TOKENS)
    def reserve(self, key: str, tokens: int) -> None:
        before = self.tables()
        self.ledger.reserve(key, tokens)
        self.booked[key] = math.ceil(tokens / self.ledger.block_size)
        assert self.ledger.reserved_blocks(key) == self.booked[key]
        assert self.tables() == before  # a booking is accounting, not a place

    @rule(key=IDS)
    def release(self, key: str) -> None:
        assert self.ledger.release(key) == self.held.pop(key, 0)
        self.booked.pop(key, None)
        assert len(self.ledger.held(key)) == 0
        assert self.ledger.reserved_blocks(key) == 0

    @invariant()
    def blocks_are_conserved_and_held_once(self) -> None:
        tables = self.tables()
        assert {key: len(table) for key, table in tables.items() if table} == {k: n for k, n in self.held.items() if n}
        everything = [block for table in tables.values() for block in table]
        assert len(set(everything)) == len(everything) == self.ledger.held_blocks
        assert set(everything) <= set(range(self.ledger.num_blocks))
        assert self.ledger.free_blocks + len(everything) == self.ledger.num_blocks
        self.ledger.check_integrity()

    @invariant()
    def what_is_not_booked_may_be_promised(self) -> None:
        keys = self.held.keys() | self.booked.keys()
        promised = sum(max(self.held.get(key, 0), self.booked.get(key, 0)) for key in keys)
        assert self.ledger.unbooked_blocks == self.ledger.num_blocks - promised


TestLedger = LedgerMachine.TestCase


def damaged(ledger: Ledger) -> list[Callable[[], object]]:
    """Every kind of damage to the two lists: lost, doubled, held by two, out of nowhere, outside of the pool."""
    free, a, b = ledger._free, ledger._held["a"], ledger._held["b"]
    return [
        free.pop,
        a.pop,
        lambda: free.append(free[0]),
        lambda: free.append(a[0]),
        lambda: a.append(b[0]),
        lambda: a.__setitem__(0, b[0]),
        lambda: a.__setitem__(0, a[1]),
        lambda: free.__setitem__(0, ledger.num_blocks),
        lambda: b.__setitem__(0, -1),
        lambda: ledger._held.pop("b"),
        lambda: ledger._held.update(c=list(a)),
    ]


@pytest.mark.parametrize("damage", range(11))
def test_every_damage_is_found_and_told_with_numbers(damage: int) -> None:
    ledger = Ledger(7, 4)
    assert ledger.allocate("a", 8)
    assert ledger.allocate("b", 5)
    ledger.check_integrity()
    damaged(ledger)[damage]()
    with pytest.raises(RuntimeError, match=r"free .* held .* 7 blocks"):
        ledger.check_integrity()


@given(st.integers(-3, 3), st.integers(-3, 3))
def test_a_pool_of_nothing_is_refused(blocks: int, size: int) -> None:
    if blocks >= 1 and size >= 1:
        assert Ledger(blocks, size).capacity_tokens == blocks * size
    else:
        with pytest.raises(ValueError, match=f"{blocks}.*{size}"):
            Ledger(blocks, size)
