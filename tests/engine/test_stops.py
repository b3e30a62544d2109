"""Where answers end, and what their text is then."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from drawing import sequence
from hypothesis import given
from hypothesis import strategies as st

from presize.engine.engine import Engine
from presize.engine.outputs import CompletionOutput
from presize.engine.sampling_params import SamplingParams
from presize.engine.sequence import Sequence
from presize.engine.tokenizer import Tokenizer

TEXT = "ab\U0001f600cd\nSTOP \u00e9!"
EOS, USER, ASSISTANT = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny.save(tiny.make_model("llama"), directory)
    return Tokenizer(Path(directory))


@pytest.fixture(scope="module")
def chain(chain_engine) -> Engine:
    return chain_engine(TEXT)


def say(engine: Engine, **params: object) -> CompletionOutput:
    engine.add_request("x", [ASSISTANT], SamplingParams(**{"temperature": 0, "max_tokens": 40, **params}))
    while not (outputs := engine.step()):
        pass
    return outputs[0].outputs[0]


pieces = st.sampled_from(
    ["a", "b", "ab", "the", " the", "cat", "\n", "\u00e9", "\u6f22", "\U0001f600", "\u0301", "<|user|>"]
)


def grow(tokenizer: Tokenizer, s: Sequence, ids: list[int]) -> int:
    """Feed tokens until the answer ends; how many were taken."""
    s.stream = tokenizer.stream(s.params.stop) if s.params.stop else None
    for count, token in enumerate(ids, 1):
        s.request.output_tokens += 1
        s.append(token, 0.0, None)
        if s.finish_reason:
            return count
    return len(ids)


def check_stops(tokenizer: Tokenizer, words: list[str], stops: list[str], min_tokens: int) -> None:
    """The answer ends with the first token that completes a stop string, and its text before the first of those."""
    ids = [token for word in words for token in tokenizer.encode(word)]
    texts = [tokenizer.decode(ids[:k]).rstrip("\ufffd") for k in range(len(ids) + 1)]
    expected = (len(ids), None, None, None)
    for k in range(len(ids), min_tokens, -1):
        found = [(at, stop) for stop in stops for at in range(len(texts[k])) if texts[k].startswith(stop, at)]
        if fresh := [(at, stop) for at, stop in found if at + len(stop) > len(texts[k - 1])]:
            expected = (k, texts[k][: min(fresh)[0]], "stop", min(fresh)[1])
    s = sequence(SamplingParams(stop=stops, min_tokens=min_tokens, max_tokens=1000))
    assert (grow(tokenizer, s, ids), s.text, s.finish_reason, s.stop_reason) == expected


@st.composite
def texts_and_stops(draw):
    words = draw(st.lists(pieces, min_size=1, max_size=12))
    whole = "".join(words).replace("<|user|>", "")
    parts = st.builds(lambda a, n: whole[a : a + n], st.integers(0, len(whole)), st.integers(1, 6)).filter(bool)
    return words, draw(st.lists(parts | pieces if whole else pieces, min_size=1, max_size=4))


@given(texts_and_stops())
def test_stop_strings_end_the_text_where_brute_force_says(tokenizer, case):
    check_stops(tokenizer, *case, min_tokens=0)


@given(texts_and_stops(), st.integers(1, 5))
def test_what_is_complete_before_min_tokens_is_no_stop(tokenizer, case, min_tokens):
    check_stops(tokenizer, *case, min_tokens=min_tokens)


@given(st.lists(st.integers(0, 299), max_size=40))
def test_tokens_that_make_no_valid_text_do_no_harm(tokenizer, ids):
    s = sequence(SamplingParams(stop=["never to be said"], max_tokens=1000))
    assert grow(tokenizer, s, ids) == len(ids)
    assert tokenizer.decode(ids).startswith(s.stream.text)


@pytest.mark.parametrize(
    ("stop", "text", "tokens", "reason"),
    [
        ("a", "", 1, "a"),
        ("\U0001f600", "ab", 6, "\U0001f600"),
        ("b\U0001f600c", "a", 7, "b\U0001f600c"),
        (["STOP", "cd\nS"], "ab\U0001f600", 10, "cd\nS"),
        (["OP", "STOP"], "ab\U0001f600cd\n", 13, "STOP"),
        (["zzz", "\u00e9"], "ab\U0001f600cd\nSTOP ", 16, "\u00e9"),
        ("!", "ab\U0001f600cd\nSTOP \u00e9", 17, "!"),
        (["zzz", "ab\U0001f601"], TEXT, 18, None),
        (["<|end|>"], TEXT, 18, None),
    ],
)
def test_stop_strings_through_the_engine(chain, stop, text, tokens, reason):
    found = say(chain, stop=stop)
    assert (found.text, len(found.token_ids), found.stop_reason) == (text, tokens, reason)
    assert found.finish_reason == "stop"


def test_the_end_of_the_text_is_counted_and_not_shown(chain):
    found = say(chain)
    assert (found.text, found.finish_reason, found.stop_reason) == (TEXT, "stop", None)
    assert found.token_ids == [*tiny.tokenizer()(TEXT)["input_ids"], EOS]


@pytest.mark.parametrize("cut", range(1, 19))
def test_max_tokens_cuts_anywhere_also_inside_a_character(chain, cut):
    found = say(chain, max_tokens=cut)
    ids = [*tiny.tokenizer()(TEXT)["input_ids"], EOS][:cut]
    assert found.token_ids == ids
    assert found.text == tiny.tokenizer().decode(ids, skip_special_tokens=True)
    assert found.finish_reason == ("stop" if cut == 18 else "length")


def test_stop_tokens_end_the_answer_and_their_own_text_is_left_out(chain):
    stop = tiny.tokenizer()("c")["input_ids"]
    found = say(chain, stop_token_ids=stop)
    assert (found.finish_reason, found.stop_reason, found.token_ids[-1]) == ("stop", stop[0], stop[0])
    assert found.text == "ab\U0001f600"


def test_ignoring_the_end_goes_on_to_max_tokens_unless_the_end_is_a_stop_token(chain):
    found = say(chain, ignore_eos=True)
    assert (len(found.token_ids), found.finish_reason, found.text) == (40, "length", TEXT)
    assert found.token_ids[17:] == [EOS, *[USER] * 22]
    found = say(chain, ignore_eos=True, stop_token_ids=[EOS])
    assert (len(found.token_ids), found.finish_reason, found.stop_reason) == (18, "stop", EOS)


def test_min_tokens_puts_off_every_way_to_stop(chain):
    found = say(chain, min_tokens=25, stop_token_ids=[USER], max_tokens=30)
    assert len(found.token_ids) == 26
    assert found.text == f"{TEXT}zzzzzzzz"
    found = say(chain, min_tokens=17, stop=["STOP"])
    assert (len(found.token_ids), found.text) == (18, TEXT)
    assert say(chain, min_tokens=12, stop=["STOP"]).text == "ab\U0001f600cd\n"


def test_a_stop_string_heard_before_min_tokens_does_not_cut_the_answer_later(chain):
    for stop in (["b"], ["b", "something longer"]):
        assert say(chain, min_tokens=3, stop=stop).text == TEXT


def test_without_max_tokens_the_answer_may_fill_the_context(chain):
    found = say(chain, max_tokens=None, ignore_eos=True)
    assert len(found.token_ids) == 511
    assert found.finish_reason == "length"


def test_every_token_is_counted_once(chain):
    chain.restart()
    lengths = [len(say(chain, **p).token_ids) for p in ({}, {"stop": "a"}, {"max_tokens": 3}, {"ignore_eos": True})]
    assert lengths == [18, 1, 3, 40]
    assert chain.snapshot().output_tokens == chain.stats.output_tokens == sum(lengths)
