"""Options that do not go together, and what follows from those that do."""

from __future__ import annotations

from typing import Any

import pytest

from presize.errors import ConfigError
from presize.load.options import LoadOptions


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url is '127.0.0.1:8000'"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://x:99999"}, "base_url"),
        ({"base_url": "http://x/?a=1"}, "base_url"),
        ({"base_url": "http://[x"}, "base_url"),
        ({"dataset_path": "x.txt"}, "give --dataset-name"),
        ({"dataset_name": "trace"}, "give --dataset-path"),
        ({"dataset_name": "random", "dataset_path": "x.csv"}, "random has no file"),
        ({"dataset_name": "sonnet"}, "known: sharegpt"),
        ({"save_detailed": True}, "give --save-result"),
        ({"request_rate": 0.0}, "request_rate is 0.0"),
        ({"request_rate": float("nan")}, "request_rate is nan"),
        ({"burstiness": -1.0}, "burstiness is -1.0"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"endpoint": "responses"}, "known: chat, completions"),
    ],
)
def test_wrong_options_are_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        LoadOptions(**given)
    assert words in str(error.value)


@pytest.mark.parametrize("key", ["", "a\nb", "sécret"])
def test_a_wrong_key_is_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        LoadOptions(api_key=key)
    assert str(error.value) == "api_key must be printable ASCII, and not empty"


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        (None, "random"),
        ("x.json", "sharegpt"),
        ("x.json.gz", "sharegpt"),
        ("a.b/x.jsonl", "custom"),
        ("x.csv.gz", "trace"),
    ],
)
def test_the_ending_says_what_the_dataset_is(path: str | None, dataset: str) -> None:
    assert LoadOptions(dataset_path=path).dataset == dataset


@pytest.mark.parametrize("url", ["http://x:1", "http://x:1/", "http://x:1/v1", "http://x:1/v1/"])
def test_the_base_url_may_end_in_v1(url: str) -> None:
    assert LoadOptions(base_url=url).root == "http://x:1"
