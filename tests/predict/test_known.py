"""`oracle` and `max-tokens`: what they promise, and every way in which a lengths file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.errors import ConfigError
from presize.predict import PREDICTORS, MaxTokens, Oracle, Query


def oracle(path: Path | str) -> Oracle:
    return Oracle(SchedulerOptions(predictor="oracle", lengths=str(path)))


def query(request_id: str, max_tokens: int = 100) -> Query:
    return Query(request_id, [1, 2], max_tokens)


GOOD = b'{"id": "a", "output_tokens": 3}'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=8) | st.integers().map(str), st.integers(1, 2**20), min_size=1, max_size=8))
def test_the_oracle_knows_what_the_file_says(tmp_path: Path, lengths: dict[str, int]) -> None:
    path = tmp_path / "lengths.jsonl"
    rows = [json.dumps({"id": key, "output_tokens": n, "text": "more"}) for key, n in lengths.items()]
    path.write_text("\n\n".join(rows), encoding="utf-8")
    curves = oracle(path).predict([query(key) for key in lengths])
    for curve, n in zip(curves, lengths.values(), strict=True):
        assert (curve.quantile(0.01), curve.quantile(0.99)) == (n, n)


def test_a_number_as_id_is_the_same_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text('{"id": 7, "output_tokens": 5}\n')
    assert oracle(path).predict([query("7")])[0].quantile(0.5) == 5


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"id output_tokens"',
        b'["id", "output_tokens"]',
        b"{}",
        b'{"id": "b"}',
        b'{"output_tokens": 3}',
        b'{"id": "b", "output_tokens": 0}',
        b'{"id": "b", "output_tokens": -5}',
        b'{"id": "b", "output_tokens": 2.5}',
        b'{"id": "b", "output_tokens": "3"}',
        b'{"id": "b", "output_tokens": true}',
        b'{"id": "b", "output_tokens": null}',
        b'{"id": "b", "output_tokens": NaN}',
        b'{"id": "b", "output_tokens": [3]}',
        b'{"id": "b", "output_tokens": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:40].decode(),
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_bytes(b"\n".join([GOOD, b"", line, GOOD]))
    with pytest.raises(ConfigError, match=r"lengths\.jsonl, line 3: .*`id`.*`output_tokens`"):
        oracle(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=60) | st.text('[]{}:,"idoutput_tokens0123456789.-e\n ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_with_the_files_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_bytes(content)
    try:
        oracle(path)
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017  (most contents are refused, the empty one is not)


def test_no_file_a_folder_and_other_encodings(tmp_path: Path) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(GOOD + b"\n" + '{"id": "\u00e9", "output_tokens": 3}'.encode("latin-1"))
    for path in (tmp_path / "absent.jsonl", tmp_path, latin):
        with pytest.raises(ConfigError, match=path.name):
            oracle(path)


def test_the_option_is_needed() -> None:
    with pytest.raises(ConfigError, match="--lengths"):
        PREDICTORS.get("oracle")(SchedulerOptions(predictor="oracle"))


def test_a_request_without_a_line_is_an_error_with_its_id(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(ConfigError, match=r"lengths\.jsonl.*'stranger'"):
        oracle(path).predict([query("a"), query("stranger")])


@given(st.lists(st.integers(1, 2**20), max_size=5))
def test_max_tokens_takes_every_answer_for_the_longest(limits: list[int]) -> None:
    curves = MaxTokens(SchedulerOptions()).predict([query(str(i), n) for i, n in enumerate(limits)])
    assert [curve.quantile(0.01) for curve in curves] == limits
    assert [curve.mean_remaining() for curve in curves] == pytest.approx(limits)


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_every_predictor_gives_one_valid_curve_a_query(name: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(i), "output_tokens": i + 1}) for i in range(5)))
    predictor = PREDICTORS.get(name)(SchedulerOptions(predictor=name, lengths=str(path)))
    queries = [query(str(i), max_tokens=10 + i) for i in range(5)]
    curves = predictor.predict(queries)
    assert len(curves) == len(queries)
    for curve, asked in zip(curves, queries, strict=True):
        assert 1 <= curve.quantile(0.5) <= asked.max_tokens
    assert predictor.predict([]) == []
