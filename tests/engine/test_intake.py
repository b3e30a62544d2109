"""What is refused at the door, how it is said, and that nobody else notices."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from presize.engine.engine import Engine
from presize.engine.llm import LLM
from presize.engine.sampling_params import SamplingParams
from presize.errors import CapacityError, ConfigError, InvalidRequestError

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
BAD = {
    "empty text": ("", {}, InvalidRequestError, "prompt is empty"),
    "no tokens": ([], {}, InvalidRequestError, "prompt is empty"),
    "token beyond the vocabulary": ([5, 300], {}, InvalidRequestError, "holds 300; token ids go from 0 to 299"),
    "negative token": ([5, -1], {}, InvalidRequestError, "holds -1; token ids go from 0 to 299"),
    "no token at all": ([5, "6"], {}, InvalidRequestError, "holds '6'"),
    "truth as a token": ([True], {}, InvalidRequestError, "holds True"),
    "half a token": ([5.5], {}, InvalidRequestError, r"holds 5\.5"),
    "half a character": ("a\ud800b", {}, InvalidRequestError, "surrogate"),
    "prompt as long as the model": ([5] * 512, {"max_tokens": None}, CapacityError, "512 tokens; .* fit 512"),
    "prompt longer than the model": ([5] * 600, {}, CapacityError, "600 tokens"),
    "answer too long": ([5] * 10, {"max_tokens": 503}, CapacityError, "10 tokens .* 503 = 513 tokens.* is 512"),
    "min_tokens too high": ([5] * 500, {"max_tokens": None, "min_tokens": 13}, InvalidRequestError, "is 13; only 12"),
    "stop token too high": ([5], {"stop_token_ids": [4, 300]}, InvalidRequestError, "holds 300; token ids go .* 299"),
}


def finish(engine: Engine) -> dict[str, list[int]]:
    found = {}
    while engine.has_unfinished_requests():
        found |= {o.request_id: o.outputs[0].token_ids for o in engine.step()}
    engine.scheduler.ledger.check_integrity()
    assert engine.scheduler.ledger.free_blocks == engine.scheduler.ledger.num_blocks
    return found


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_with_the_numbers_and_leaves_no_trace(engine_of, name):
    prompt, changes, error, match = BAD[name]
    engine = engine_of()
    engine.add_request("good", [5, 6], GREEDY)
    expected = finish(engine)
    engine = engine_of()
    engine.add_request("good", [5, 6], GREEDY)
    with pytest.raises(error, match=match) as caught:
        engine.add_request("bad", prompt, SamplingParams(**changes))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert engine.snapshot().waiting == 1
    engine.step()
    with pytest.raises(error):
        engine.add_request("bad", prompt, SamplingParams(**changes))
    assert finish(engine) == expected
    engine.add_request("bad", [5, 6], GREEDY)  # the name is not taken
    assert finish(engine)["bad"] == expected["good"]


def test_a_request_that_the_pool_can_never_hold_is_refused_with_the_numbers(engine_of):
    engine = engine_of(kv_tokens=96)
    with pytest.raises(CapacityError, match=r"40 tokens .* 57 = 97 .* 96"):
        engine.add_request("x", [5] * 40, SamplingParams(max_tokens=57))
    engine.add_request("x", [5] * 40, SamplingParams(max_tokens=56))
    assert len(finish(engine)["x"]) <= 56


def test_an_id_may_be_in_work_once_at_a_time(engine_of):
    engine = engine_of()
    engine.add_request("x", [5], GREEDY)
    with pytest.raises(InvalidRequestError, match="'x' is already in work"):
        engine.add_request("x", [6], GREEDY)
    first = finish(engine)["x"]
    engine.add_request("x", [5], GREEDY)
    assert finish(engine)["x"] == first


def test_ids_that_look_like_those_of_single_answers_do_not_collide(engine_of):
    """The answers of a request with n > 1 need names too; no id that a user may choose can be one of them."""
    several = SamplingParams(n=2, seed=1, max_tokens=40, ignore_eos=True)
    engine = engine_of(kv_tokens=448)
    engine.add_request("a", [5, 6, 7], several)
    expected = finish(engine)["a"]
    engine.add_request("a#0", [9] * 30, GREEDY)
    expected_other = finish(engine)["a#0"]
    engine.add_request("a", [5, 6, 7], several)
    engine.add_request("a#0", [9] * 30, GREEDY)
    assert finish(engine) == {"a": expected, "a#0": expected_other}


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(engine_of, text):
    engine = engine_of()
    try:
        engine.add_request("x", text, SamplingParams(max_tokens=1))
    except InvalidRequestError:
        assert not text or any("\ud800" <= c <= "\udfff" for c in text)
    else:
        assert len(finish(engine)["x"]) == 1


def test_conversations_go_through_the_template_of_the_model(llm_of):
    llm = llm_of()
    talk = [{"role": "user", "content": "the cat"}]
    ids = tiny.tokenizer()("<|user|>the cat<|end|><|assistant|>")["input_ids"]
    (chat,), (plain,) = (llm.chat(talk, GREEDY, use_tqdm=False), llm.generate(ids, GREEDY, use_tqdm=False))
    assert chat.prompt_token_ids == ids
    assert chat.outputs[0].token_ids == plain.outputs[0].token_ids
    both = llm.chat([talk, talk], GREEDY, use_tqdm=False)
    assert [o.prompt_token_ids for o in both] == [ids, ids]
    with pytest.raises(InvalidRequestError, match="template refuses these messages: no system prompt"):
        llm.chat([{"role": "system", "content": "x"}], GREEDY, use_tqdm=False)


def test_prompts_may_be_texts_or_tokens_one_or_many(llm_of):
    llm = llm_of()
    ids = tiny.tokenizer()("the hat")["input_ids"]
    one = [llm.generate(p, GREEDY, use_tqdm=False) for p in ("the hat", ids, tuple(ids), ["the hat"], [ids], (ids,))]
    assert {tuple(tuple(o.outputs[0].token_ids) for o in outputs) for outputs in one} == {
        (tuple(one[0][0].outputs[0].token_ids),)
    }
    assert one[0][0].prompt == "the hat"
    assert one[1][0].prompt is None
    assert llm.generate([], GREEDY, use_tqdm=False) == []
    each = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 2, 3)]
    outputs = llm.generate(["the"] * 3, each, use_tqdm=False)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 2, 3]
    with pytest.raises(ConfigError, match="3 sampling_params for 2 prompts"):
        llm.generate(["the"] * 2, each, use_tqdm=False)


@pytest.mark.parametrize("name", BAD)
def test_one_bad_prompt_stops_generate_before_anything_ran_and_the_engine_goes_on(llm_of, name):
    prompt, changes, error, match = BAD[name]
    llm: LLM = llm_of(kv_tokens=512)
    with pytest.raises(error, match=match):
        llm.generate([[5, 6], prompt, [7]], [GREEDY, SamplingParams(**changes), GREEDY], use_tqdm=False)
    assert not llm.engine.has_unfinished_requests()
    assert llm.engine.stats.output_tokens == 0
    assert len(llm.generate([[5, 6], [7]], GREEDY, use_tqdm=False)) == 2


def test_generate_leaves_requests_of_others_alone(llm_of):
    llm: LLM = llm_of()
    llm.engine.add_request("0", [5, 6], GREEDY)
    with pytest.raises(InvalidRequestError, match="empty"):
        llm.generate([[7], []], GREEDY, use_tqdm=False)
    assert list(finish(llm.engine)) == ["0"]


def test_a_conversation_with_half_a_character_is_refused(engine_of):
    with pytest.raises(InvalidRequestError, match="surrogate"):
        engine_of().add_chat("bad", [{"role": "user", "content": "a\ud800b"}], GREEDY)
