"""What is asked of the server before the clock starts: how it counts tokens, and a few answers to warm it up."""

from __future__ import annotations

import numpy as np

from presize.load.client import Client, Unreachable
from presize.load.outcome import Outcome
from presize.load.rows import Sample
from presize.load.synthetic import PROBES, Ruler, sentence

WARM_UP = Sample("Say a few words about the sea.", output_len=8)  # in no dataset: a prefix cache gains nothing by it


async def measure(client: Client, seed: int) -> Ruler | None:
    """How many tokens words are, by two probes; None if the server does not count. Unreachable if one fails."""
    counts, random = [], np.random.default_rng(seed)
    for words in PROBES:
        outcome = await client.ask(Sample(sentence(words, random), output_len=1), ignore_eos=False)
        _check(outcome, f"a probe of {words} words, to see how many tokens they are, failed")
        counts.append(outcome.input_tokens)
    short, long = counts
    return None if short is None or long is None else Ruler.through(short, long)


async def warm_up(client: Client, count: int, *, ignore_eos: bool) -> None:
    """Answers one after another, asked for as those of the run. Unreachable if one fails: they would, too."""
    for _ in range(count):
        _check(await client.ask(WARM_UP, ignore_eos=ignore_eos), "the warm-up request failed")


def _check(outcome: Outcome, what: str) -> None:
    if outcome.failure is not None:
        raise Unreachable(f"{what}: {outcome.failure.kind}: {outcome.failure.message}")
