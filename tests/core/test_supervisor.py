"""Who must yield."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.core.supervisor import choose_victim, protected


@st.composite
def running_sets(draw: st.DrawFn) -> list[Request]:
    """Running requests in any order; few distinct sizes, so that there are ties."""
    rows = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=7))
    admissions = draw(st.permutations(range(len(rows))))
    return [
        Request(
            str(rank), prompt, 99, LengthDistribution.exactly(9), output_tokens=out, overrun_at=limit, admission=rank
        )
        for rank, (prompt, out, limit) in zip(admissions, rows, strict=True)
    ]


@given(running_sets())
def test_the_oldest_admission_never_yields(running: list[Request]) -> None:
    oldest = protected(running)
    assert oldest.admission == 0
    victim = choose_victim(running)
    assert (victim is None) == (len(running) == 1)
    assert victim is not oldest


@given(running_sets())
def test_a_broken_promise_pays_first_and_then_the_cheapest(running: list[Request]) -> None:
    victim = choose_victim(running)
    others = [r for r in running if r.admission != 0]
    if victim is None:
        assert not others
        return
    broken = [r for r in others if r.output_tokens >= r.overrun_at]
    liable = broken or others
    assert victim in liable
    cheapest = min(r.prompt_tokens + r.output_tokens for r in liable)
    assert victim.prompt_tokens + victim.output_tokens == cheapest
    equal = [r for r in liable if r.prompt_tokens + r.output_tokens == cheapest]
    assert all(victim.admission >= r.admission for r in equal)


@given(running_sets(), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_list(running: list[Request], random) -> None:
    victim = choose_victim(running)
    random.shuffle(running)
    assert choose_victim(running) is victim


def test_a_request_that_outran_its_forecast_yields_before_a_much_cheaper_one() -> None:
    def request(rank: int, prompt: int, out: int) -> Request:
        return Request(
            str(rank), prompt, 99, LengthDistribution.exactly(5), output_tokens=out, overrun_at=6, admission=rank
        )

    oldest, cheap, overrun = request(0, 1, 50), request(1, 1, 1), request(2, 1000, 6)
    assert choose_victim([oldest, cheap, overrun]) is overrun
    assert choose_victim([oldest, cheap]) is cheap
