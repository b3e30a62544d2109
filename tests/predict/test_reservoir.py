"""The newest answers: bounded, fair, and the same after a restart."""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.predict.base import Query
from presize.predict.features import MAX_READ, Features
from presize.predict.online.reservoir import Answer, Recent, Reservoir, newest
from presize.whole_file import replace_file

PLAIN = Features((), (), (0.0,) * 4, (0.0,) * 4)
ANSWER = Answer.of(Query("r", [5, 6, 7], 300, 0.5, True, tenant="ann"), PLAIN, 40, False)


@given(
    st.integers(1, 20),
    st.none() | st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9)), max_size=80),
)
def test_it_is_bounded_and_no_tenant_has_more_than_a_quarter(
    capacity: int, room: int | None, added: list[tuple[str, int]]
) -> None:
    recent: Recent[tuple[int, str, int]] = Recent(capacity, room)
    for number, (tenant, size) in enumerate(added):
        recent.add(tenant, (number, tenant, size), size)
        kept = list(recent)
        assert kept == sorted(kept)
        assert kept[-1][0] == number, "the newest is always kept"
        assert 1 <= len(recent) == len(kept) <= capacity
        assert room is None or len(kept) == 1 or sum(size for *_, size in kept) <= room
        counts = Counter(tenant for _, tenant, _ in kept)
        if len(counts) > 1:
            for name, count in counts.items():
                assert count <= max(capacity // 4, 1)
                assert room is None or count == 1 or sum(s for _, t, s in kept if t == name) <= room // 4


@given(st.integers(1, 30), st.integers(0, 80))
def test_a_tenant_alone_has_the_newest_of_all(capacity: int, count: int) -> None:
    recent: Recent[int] = Recent(capacity)
    for number in range(count):
        recent.add("only", number)
    assert list(recent) == list(range(max(count - capacity, 0), count))


def test_what_others_send_takes_nothing_from_a_tenant_within_its_quarter() -> None:
    recent: Recent[str] = Recent(40)
    for _ in range(1000):
        recent.add("loud", "loud")
    for number in range(10):
        recent.add("quiet", f"quiet {number}")
    for _ in range(1000):
        recent.add("loud", "loud")
    kept = list(recent)
    assert [item for item in kept if item != "loud"] == [f"quiet {number}" for number in range(10)]
    assert kept.count("loud") == 10


ANSWERS = st.builds(
    Answer,
    tokens=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(lambda ids: np.array(ids, dtype=np.int32)),
    max_tokens=st.integers(1, 2**40),
    temperature=st.floats(0, 100),
    system=st.booleans(),
    tenant=st.integers(0, 2**63 - 1),
    output_tokens=st.integers(1, 2**20),
    censored=st.booleans(),
)


@given(st.lists(ANSWERS, max_size=20))
def test_the_file_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, answers: list[Answer]) -> None:
    path = tmp_path_factory.mktemp("reservoir") / "file"
    reservoir = Reservoir()
    for answer in answers:
        reservoir.add(answer)
    reservoir.write(path)
    read = Reservoir.read(path).answers()
    for kept, found in zip(reservoir.answers(), read, strict=True):
        assert (kept.tokens == found.tokens).all()
        assert replace(kept, tokens=found.tokens) == found
        assert kept.fold == found.fold


def test_only_the_owner_may_read_the_prompts(tmp_path: Path) -> None:
    Reservoir().write(tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


@given(st.data())
def test_a_damaged_file_is_a_value_error_or_still_valid(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("reservoir") / "file"
    reservoir = Reservoir()
    for _ in range(3):
        reservoir.add(ANSWER)
    reservoir.write(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        answers = Reservoir.read(path).answers()
    except ValueError:
        return
    assert all(1 <= a.output_tokens <= 2**20 and a.max_tokens >= 1 and a.tokens.size for a in answers)


def test_what_is_kept_of_a_prompt_is_what_is_read_of_it() -> None:
    features = Features((1, 2), (9,), (0.0,) * 4, (0.0,) * 4)
    kept = Answer.of(Query("r", [1, 2, 5, 6, 9], 10), features, 3, False)
    assert kept.tokens.tolist() == [5, 6]
    assert len(Answer.of(Query("r", [*range(MAX_READ * 3)], 10), features, 3, False).tokens) == MAX_READ


def test_all_answers_to_a_prompt_are_in_one_fold_and_folds_are_of_one_size() -> None:
    def fold(prompt: list[int], output_tokens: int = 3) -> int:
        return Answer.of(Query(str(output_tokens), prompt, 10, tenant=str(output_tokens)), PLAIN, output_tokens, False
        ).fold  # fmt: skip

    assert len({fold([1, 2, 3], n) for n in range(1, 50)}) == 1
    counts = Counter(fold([i, i + 1]) for i in range(2000))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert min(counts.values()) > 320


def test_the_newest_of_many_tenants_are_shared_too() -> None:
    answers = [replace(ANSWER, tenant=1, output_tokens=n) for n in range(1, 100)]
    assert newest(answers, 20) == answers[-20:]
    few = [replace(ANSWER, tenant=t) for t in (2, 3, 4)]
    assert Counter(a.tenant for a in newest([*few, *answers], 20)) == {1: 5, 2: 1, 3: 1, 4: 1}


def test_a_file_is_replaced_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("presize.whole_file.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
