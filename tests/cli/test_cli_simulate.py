"""`presize simulate`, `plan` and `calibrate`: what they print, what they write, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.cli.main import main
from presize.cli.plan import fewest
from presize.cli.simulation import SIMULATED_FIELDS
from presize.cli.summary import FIELDS
from presize.simulate.device import DEVICES, device_of

SMALL = [
    "--num-requests", "60", "--input-len", "60", "--output-len", "50", "--max-tokens", "200", "--kv-tokens", "2048",
    "--device", "A100-80G", "--model", "gpt-j-6b",
]  # fmt: skip

Verb = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def verb(capsys: Any) -> Verb:
    """``verb(*argv)``: exit status, the JSON of the last line (or None), standard error."""

    def run(*argv: object) -> tuple[int, Any, str]:
        status = main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if captured.out else None, captured.err

    return run


def test_a_column_a_policy_and_one_json_line(verb: Verb) -> None:
    status, found, told = verb(
        "simulate", "synthetic", *SMALL, "--policies", "payback,worst-case", "--request-rate", 20
    )
    assert status == 0
    assert list(found) == ["payback", "worst-case"]
    assert list(found["payback"]) == [name for name in SIMULATED_FIELDS if name != "slo_attainment"]
    assert list(FIELDS) == list(found["payback"])[: len(FIELDS)], "the figures of `bench offline`, and more"
    assert "60 requests; 1 x 1 A100-80G, gpt-j-6b, 2,048 KV tokens each" in told
    assert "throughput" in told


def test_rates_and_orders_make_a_column_each(verb: Verb) -> None:
    argv = ("--policies", "payback", "--orders", "fcfs,gittins", "--rates", "5,900", "--slo-ttft-ms", "500")
    status, found, _ = verb("simulate", "synthetic", *SMALL, *argv)
    assert status == 0
    assert list(found) == [
        "payback/fcfs @ 5/s",
        "payback/gittins @ 5/s",
        "payback/fcfs @ 900/s",
        "payback/gittins @ 900/s",
    ]
    share = {name: figures["slo_attainment"] for name, figures in found.items()}
    assert share["payback/fcfs @ 900/s"] < share["payback/fcfs @ 5/s"] == 1.0


def test_the_same_command_prints_the_same_line(verb: Verb) -> None:
    argv = ("simulate", "synthetic", *SMALL, "--predictor", "noisy", "--order", "gittins", "--replicas", 2)
    assert verb(*argv)[1] == verb(*argv)[1]
    assert verb(*argv)[1] != verb(*argv, "--seed", 1)[1]


@pytest.mark.parametrize("name", ["p.png", "p.svg"])
def test_the_picture_and_the_result_are_written(verb: Verb, tmp_path: Path, name: str) -> None:
    picture, result = tmp_path / name, tmp_path / "r.json"
    argv = ("--policies", "payback,watermark", "--rates", "5,20", "--save-plot", picture, "--save-result", result)
    status, found, _ = verb("simulate", "synthetic", *SMALL, *argv)
    assert status == 0
    assert picture.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    saved = json.loads(result.read_text())
    assert saved["results"] == found
    assert saved["options"]["kv_tokens"] == 2048


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("simulate", "required: TRACE"),
        ("simulate no.csv", "trace no.csv can not be read"),
        ("simulate x.txt", "ends in none of"),
        ("simulate synthetic --device H900", "must be one of A100-40G, A100-80G"),
        ("simulate synthetic --model gpt-9", "must be one of gpt-j-6b"),
        ("simulate synthetic --model gpt-3-175b", "raise tensor_parallel"),
        ("simulate synthetic --policies paybak", "did you mean payback?"),
        ("simulate synthetic --predictor attention", "learned read prompts"),
        ("simulate synthetic --rates 1,x", "--rates is '1,x'"),
        ("simulate synthetic --rates 1,1", "different numbers"),
        ("simulate synthetic --save-plot x.txt", "must end in .png"),
        ("simulate synthetic --save-result no/x.json", "can not be written"),
        ("simulate synthetic --replicas 0", "replicas is '0'"),
        ("simulate synthetic --lengths x", "not for the simulator"),
        ("simulate synthetic --time-scale 2", "this one has none"),
        ("plan synthetic", "an objective is missing"),
        ("plan synthetic --slo-ttft-ms 5 --attainment 2", "attainment is 2.0; it must be in [0, 1]"),
        ("plan synthetic --slo-ttft-ms 5 --most 0", "most is 0"),
        ("calibrate --output no/such/d.json", "there is no directory"),
    ],
)
def test_what_is_wrong_is_one_sentence(line: str, words: str, verb: Verb) -> None:
    status, found, told = verb(*line.split())
    assert (status, found) == (2, None)
    assert told.startswith("presize: error: ")
    assert words in told
    assert told.count("\n") == 1


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_is_found_with_few_trials(least: int, most: int) -> None:
    tried = []

    def holds(size: int) -> bool:
        tried.append(size)
        return size >= least

    assert fewest(holds, most) == (least if least <= most else None)
    assert max(tried) <= most
    assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1


def test_a_plan_holds_and_one_less_does_not(verb: Verb) -> None:
    argv = ["synthetic", *SMALL, "--request-rate", "80", "--slo-ttft-ms", "400", "--router", "least-requests"]
    status, found, told = verb("plan", *argv, "--policies", "payback,worst-case", "--most", 16)
    assert status == 0
    assert found["worst-case"]["devices"] >= found["payback"]["devices"] > 1
    assert found["worst-case"]["cost_ratio"] == found["worst-case"]["devices"] / found["payback"]["devices"]
    assert "cost ratio" in told
    for size, enough in ((found["payback"]["replicas"], True), (found["payback"]["replicas"] - 1, False)):
        _, figures, _ = verb("simulate", *argv, "--replicas", size)
        assert (figures["payback"]["slo_attainment"] >= 0.99) == enough


def test_a_plan_over_pipelines_begins_where_the_model_fits(verb: Verb) -> None:
    argv = ["synthetic", "--num-requests", "5", "--model", "gpt-3-175b", "--device", "A100-80G", "--max-tokens", "64"]
    status, found, _ = verb("plan", *argv, "--slo-tpot-ms", "2000", "--vary", "pipeline-parallel")
    assert status == 0
    assert found["payback"]["pipeline_parallel"] == 5, "349 GB of weights, 72 a device"


def test_a_plan_that_no_size_holds_says_so(verb: Verb) -> None:
    status, found, _ = verb("plan", "synthetic", *SMALL, "--slo-tpot-ms", "1", "--most", 2)
    assert status == 1
    assert found["payback"] == {"replicas": None, "devices": None, "slo_attainment": 0.0, "cost_ratio": None}


def test_a_file_that_is_there_is_not_replaced(verb: Verb, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text("mine")
    status, _, told = verb("calibrate", "--output", path)
    assert status == 2
    assert "add --overwrite" in told
    assert path.read_text() == "mine"


def test_a_device_file_is_simulated_with(verb: Verb, tmp_path: Path) -> None:
    from presize.simulate.device import save_device

    save_device(tmp_path / "d.json", DEVICES["l4"], {})
    argv = ("simulate", "synthetic", "--num-requests", "20", "--model", "llama-3-8b")
    assert verb(*argv, "--device", tmp_path / "d.json")[1] == verb(*argv, "--device", "L4")[1]
    assert device_of(str(tmp_path / "d.json")).name == "L4"
