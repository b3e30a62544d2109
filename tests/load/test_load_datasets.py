"""Datasets: what is read, what is passed over and why, and made-up prompts."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.load.conversations import custom, sharegpt
from presize.load.datasets import work_of
from presize.load.options import LoadOptions
from presize.load.rows import Sample
from presize.load.synthetic import PROBES, WORDS, Ruler, made_up, random_shapes, sentence
from presize.load.traces import trace

Write = Callable[..., Path]
AZURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces" / "azure2023_conv.csv.gz"
TRACE = ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46.6805900,374,44",
         "2023-11-16 18:15:46.4805900,20,3"]  # fmt: skip
MESSAGES = [{"role": "user", "content": "hello"}]


def turn(who: str, value: object) -> dict[str, object]:
    return {"from": who, "value": value}


def test_sharegpt_takes_the_first_human_turn(write: Write) -> None:
    path = write(
        "x.json",
        [
            {"id": "a", "conversations": [turn("human", "one"), turn("gpt", "two")]},
            {"id": "b", "conversations": [turn("system", "be brief"), turn("user", "three")]},
        ],
    )
    rows = sharegpt(str(path), 99)
    assert rows.good == [Sample("one", 99), Sample("three", 99)]
    assert rows.bad == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (5, "no list `conversations`"),
        ({"conversations": []}, "no list `conversations`"),
        ({"conversations": ["x"]}, "no list `conversations`"),
        ({"conversations": [turn("gpt", "x")]}, "a turn from 'gpt', not from a human"),
        ({"conversations": [turn("system", "x")]}, "a turn from 'system'"),
        ({"conversations": [turn("human", " ")]}, "it must be text, and not empty"),
        ({"conversations": [turn("human", None)]}, "it must be text"),
    ],
)
def test_bad_conversations_are_told(entry: object, words: str, write: Write) -> None:
    rows = sharegpt(str(write("x.json", [entry, {"conversations": [turn("human", "fine")]}])), 9)
    assert [sample.prompt for sample in rows.good] == ["fine"]
    (complaint,) = rows.bad
    assert complaint.startswith("conversation 1: ")
    assert words in complaint


def test_custom_rows_may_have_a_limit_of_their_own(write: Write) -> None:
    path = str(
        write("x.jsonl", {"prompt": "a", "max_tokens": 5, "id": 3}, "", {"messages": MESSAGES, "output_len": 6},
              {"prompt": "b"})
    )  # fmt: skip
    rows = custom(path, "chat", 100, fixed=False)
    assert rows.good == [Sample("a", 5), Sample(MESSAGES, 6), Sample("b", 100)]
    assert [sample.output_len for sample in custom(path, "chat", 100, fixed=True).good] == [100, 100, 100]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ([1], "not an object"),
        ({}, "exactly one of `prompt` and `messages`"),
        ({"prompt": "a", "messages": MESSAGES}, "exactly one of"),
        ({"prompt": ""}, "prompt is ''"),
        ({"prompt": ["a"]}, "prompt is ['a']"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens is 0"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is True"),
        ({"prompt": "a", "output_len": 2.5}, "output_len is 2.5"),
        ({"prompt": "a", "max_tokens": 1, "output_len": 1}, "the same field"),
        ({"messages": []}, "at least one message"),
        ({"messages": "x" * 500}, "..."),
        ({"messages": [{"content": "x"}]}, "a message is"),
        ({"messages": [{"role": "user", "content": [1]}]}, "the content of a message"),
    ],
)
def test_bad_lines_are_told_by_their_number(row: Any, words: str, write: Write) -> None:
    rows = custom(str(write("x.jsonl", {"prompt": "fine"}, row)), "chat", 9, fixed=False)
    assert [sample.prompt for sample in rows.good] == ["fine"]
    (complaint,) = rows.bad
    assert complaint.startswith("line 2: ")
    assert words in complaint
    assert len(complaint) < 300


def test_messages_need_the_chat_endpoint(write: Write) -> None:
    assert custom(str(write("x.jsonl", {"messages": MESSAGES})), "completions", 9, fixed=False).bad == [
        "line 1: messages need --endpoint chat"
    ]


def test_a_trace_is_sorted_by_its_times(write: Write) -> None:
    rows = trace(str(write("x.csv", *TRACE)), None)
    assert [(shape.input_len, shape.output_len) for shape in rows.good] == [(20, 3), (374, 44)]
    assert rows.good[1].arrival_s - rows.good[0].arrival_s == pytest.approx(0.2)
    assert rows.bad == []
    short = trace(str(write("x.csv", *TRACE)), 23)
    assert (len(short.good), short.left_out) == (1, 1)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", "45.5,ChatGPT,7,3,10,API log"),
        ("arrival,input_len,output_len", "45.5,7.0,3"),
        ("output_tokens,prompt_tokens,Time,x", "3,7,1970-01-01T00:00:45.5,"),
        ("output_tokens,prompt_tokens,Time,x", "3,7,1970-01-01 02:00:45.500000+02:00,"),
    ],
)
def test_traces_of_other_makers(header: str, row: str, write: Write) -> None:
    (shape,) = trace(str(write("x.csv", header, "", row)), None).good
    assert (shape.arrival_s, shape.input_len, shape.output_len) == (45.5, 7, 3)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2023-11-16 18:15:46", "it has 1 cells"),
        ("yesterday,1,1", "the arrival is 'yesterday'"),
        ("inf,1,1", "it must be finite"),
        ("1,x,1", "the context tokens are 'x'"),
        ("1,0,1", "the context tokens are '0'"),
        ("1,1,-4", "the generated tokens are '-4'"),
        ("1,1,2.5", "the generated tokens are '2.5'"),
        ("1,1,nan", "the generated tokens are 'nan'"),
        ("1,inf,1", "the context tokens are 'inf'"),
    ],
)
def test_bad_rows_of_a_trace(row: str, words: str, write: Write) -> None:
    rows = trace(str(write("x.csv", *TRACE, row)), None)
    assert len(rows.good) == 2
    (complaint,) = rows.bad
    assert complaint.startswith("line 4: ")
    assert words in complaint


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("x.json", ["{"], "is not JSON"),
        ("x.json", [{"a": 1}], "ShareGPT is a list"),
        ("x.json", [[]], "has no usable row"),
        ("x.jsonl", [], "has no usable row"),
        ("x.jsonl", [{"prompt": 1}], "no usable row; line 1: prompt is 1"),
        ("x.csv", [], "no column for the arrival"),
        ("x.csv", ["TIMESTAMP,ContextTokens"], "no column for the generated tokens"),
        ("x.csv", TRACE[:1], "has no usable row"),
        ("x.csv", [b"\xff"], "is not a CSV file"),
        ("x.csv.gz", ["no archive"], "can not be read"),
        ("x.csv.gz", [gzip.compress(b"\n".join(line.encode() for line in TRACE))[:-20]], "can not be read"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_sentence(name: str, rows: list[Any], words: str, write: Write) -> None:
    path = write(name, *rows)
    with pytest.raises(ConfigError) as error:
        work_of(LoadOptions(dataset_path=str(path)))
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="can not be read: No such file"):
        work_of(LoadOptions(dataset_path="none.jsonl"))


def test_bad_rows_and_missing_ones_are_noted(write: Write) -> None:
    path = write("x.csv", *TRACE, *["1,x,1"] * 5)
    work = work_of(LoadOptions(dataset_path=str(path), max_total_len=100, num_prompts=7))
    assert len(work.times) == 1
    assert [note.partition(":")[0] for note in work.notes[:3]] == ["line 4", "line 5", "line 6"]
    assert work.notes[3:] == [
        "5 of 7 rows can not be used",
        "rows left out, with more tokens than max_total_len, 100: 1",
        "num_prompts is 7; usable rows, each of which is sent once: 1",
    ]


def test_rows_are_taken_in_an_order_of_the_seed(write: Write) -> None:
    path = str(write("x.jsonl", *({"prompt": str(i)} for i in range(50))))

    def prompts(**options: Any) -> list[Any]:
        made = work_of(LoadOptions(dataset_path=path, num_prompts=20, **options)).samples(Ruler())
        return [sample.prompt for sample in made]

    assert prompts(shuffle=False) == [str(i) for i in range(20)]
    assert prompts() == prompts() != prompts(seed=1)
    assert len(set(prompts())) == 20
    assert prompts(request_rate=3.0) == prompts()  # when they are sent does not change what is sent


def test_a_trace_is_replayed_at_its_times_unless_a_rate_is_given(write: Write) -> None:
    path = str(write("x.csv", *TRACE))
    work = work_of(LoadOptions(dataset_path=path, time_scale=2.0))
    assert work.times == pytest.approx([0, 0.4])
    assert work.ignore_eos
    assert work.measured
    assert not work_of(LoadOptions(dataset_path=path, ignore_eos=False)).ignore_eos
    assert work_of(LoadOptions(dataset_path=path, request_rate=8.0, burstiness=float("inf"))).times.tolist() == [
        0,
        1 / 8,
    ]
    assert [sample.output_len for sample in work.samples(Ruler())] == [3, 44]
    fixed = work_of(LoadOptions(dataset_path=path, output_len=9))
    assert [sample.output_len for sample in fixed.samples(Ruler())] == [9, 9]


@pytest.mark.skipif(not AZURE.exists(), reason="needs shared/data, which is not part of the repository")
def test_azures_trace() -> None:
    rows = trace(str(AZURE), None)
    assert (len(rows.good), rows.bad) == (19_366, [])
    assert rows.good[-1].arrival_s - rows.good[0].arrival_s == pytest.approx(3501.72, abs=0.01)


@given(frame=st.integers(0, 50), per_word=st.integers(1, 6), tokens=st.integers(1, 5000))
def test_two_probes_tell_how_many_words_a_number_of_tokens_is(frame: int, per_word: int, tokens: int) -> None:
    short, long = (frame + per_word * words for words in PROBES)
    ruler = Ruler.through(short, long)
    words = ruler.words(tokens)
    assert words >= 1
    assert words == 1 or abs(frame + words * per_word - tokens) <= per_word / 2


def test_probes_that_make_no_sense_are_not_followed() -> None:
    assert Ruler.through(40, 40) == Ruler.through(90, 40) == Ruler()
    assert Ruler().words(7) == 7


@given(words=st.integers(1, 200), seed=st.integers(0, 2**63))
def test_a_sentence_has_its_words_evenly(words: int, seed: int) -> None:
    found = sentence(words, np.random.default_rng(seed)).split(" ")
    assert len(found) == words
    counts = [found.count(word) for word in WORDS]
    assert sum(counts) == words
    assert max(counts) - min(counts) <= 1


@given(mean=st.integers(1, 2000), spread=st.floats(0, 0.99), seed=st.integers(0, 2**63))
def test_random_lengths_stay_within_their_range(mean: int, spread: float, seed: int) -> None:
    shapes = random_shapes(40, mean, 3 * mean, spread, np.random.default_rng(seed))
    for lengths, middle in (([s.input_len for s in shapes], mean), ([s.output_len for s in shapes], 3 * mean)):
        assert min(lengths) >= max(1, round(middle * (1 - spread)))
        assert max(lengths) <= max(1, round(middle * (1 + spread)))


def test_made_up_prompts_do_not_begin_alike() -> None:
    shapes = random_shapes(200, 30, 5, 0.0, np.random.default_rng(0))
    prompts = [str(sample.prompt) for sample in made_up(shapes, None, Ruler(), np.random.default_rng(1))]
    assert len({" ".join(prompt.split()[:8]) for prompt in prompts}) == 200
