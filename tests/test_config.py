"""Options check themselves; unknown names list the known ones; errors are what they say they are."""

from __future__ import annotations

import math
import re
from dataclasses import Field, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.config import EngineOptions
from presize.core.admission import POLICIES
from presize.core.ledger import Ledger
from presize.core.ordering import ORDERS
from presize.core.scheduler import Scheduler
from presize.errors import CapacityError, ConfigError, InvalidRequestError, PresizeError, check_range
from presize.predict import PREDICTORS, choose
from presize.registry import Registry

ALL = {f.name: f for f in fields(EngineOptions)}
RANGED = {name: f for name, f in ALL.items() if f.metadata["low"] is not None}
CHOSEN = {name: f for name, f in ALL.items() if f.metadata["choices"]}


def whole(field: Field[Any]) -> bool:
    return "int" in field.type


@pytest.mark.parametrize("name", sorted(RANGED))
@given(data=st.data())
def test_inside_its_range_an_option_is_taken_outside_it_is_refused(name: str, data: st.DataObject) -> None:
    field = RANGED[name]
    low, high = field.metadata["low"], field.metadata["high"]
    numbers = st.integers if whole(field) else st.floats
    inside = data.draw(st.sampled_from([low, high]) | numbers(low, high))
    assert getattr(EngineOptions(**{name: inside}), name) == inside
    outside = data.draw(
        (st.integers(max_value=math.ceil(low) - 1) | st.integers(min_value=math.floor(high) + 1))
        | st.sampled_from([math.nan, math.inf, -math.inf, math.nextafter(low, -math.inf)])
    )
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        EngineOptions(**{name: outside})


@pytest.mark.parametrize("name", sorted(RANGED))
@pytest.mark.parametrize("value", ["3", True, [1], b"1", 1j])
def test_what_is_not_a_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name} is {value!r}")):
        EngineOptions(**{name: value})


@pytest.mark.parametrize("name", sorted(name for name, f in RANGED.items() if whole(f)))
def test_a_count_is_a_whole_number(name: str) -> None:
    """Two and a half sequences, or blocks, would only fail much later."""
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        EngineOptions(**{name: RANGED[name].metadata["low"] + 64.5})


@pytest.mark.parametrize("name", sorted(name for name, f in ALL.items() if "None" not in f.type))
def test_none_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is None"):
        EngineOptions(**{name: None})


@pytest.mark.parametrize("name", sorted(CHOSEN))
@given(value=st.text() | st.integers())
def test_a_choice_is_one_of_the_known(name: str, value: object) -> None:
    known = CHOSEN[name].metadata["choices"]
    if value in known:
        return
    with pytest.raises(ConfigError) as caught:
        EngineOptions(**{name: value})
    assert all(choice in str(caught.value) for choice in (name, repr(value), *known))


def test_the_defaults_are_valid_and_their_names_are_registered() -> None:
    options = EngineOptions()
    assert options.policy in POLICIES
    assert options.order in ORDERS
    predictor, _ = choose(options, "any", lambda: "any tokenizer")
    assert predictor.predict([]) == []


@given(st.text(min_size=1).filter(lambda name: name not in ALL))
def test_an_unknown_option_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineOptions.of({name: 1, "max_num_seqs": 4})
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in ALL)


def test_of_takes_the_known_ones() -> None:
    assert EngineOptions.of({"kv_tokens": 4096, "policy": "s3"}) == EngineOptions(kv_tokens=4096, policy="s3")


def test_options_can_not_be_changed_behind_the_check() -> None:
    with pytest.raises(AttributeError):
        EngineOptions().max_num_seqs = -1


@pytest.mark.parametrize("registry", [POLICIES, ORDERS, PREDICTORS], ids=lambda r: r.kind)
def test_an_unknown_name_lists_the_known_ones(registry: Registry[object]) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.get("nonsense")
    message = str(caught.value)
    assert registry.kind in message
    assert "'nonsense'" in message
    assert all(name in message for name in registry)


@pytest.mark.parametrize("name", ["policy", "order"])
def test_the_scheduler_refuses_unknown_names(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown {name} 'nonsense'"):
        Scheduler(EngineOptions(**{name: "nonsense"}), Ledger(4, 4), max_num_seqs=1, max_num_batched_tokens=16)


@given(st.lists(st.text(max_size=5), unique=True, max_size=8))
def test_a_registry_is_a_table_in_which_a_name_is_taken_once(names: list[str]) -> None:
    registry: Registry[list[str]] = Registry("thing")
    entries = {name: [name] for name in names}
    for name, entry in entries.items():
        assert name not in registry
        assert registry.register(name)(entry) is entry
    assert list(registry) == names
    for name, entry in entries.items():
        assert registry.get(name) is entry
        with pytest.raises(AssertionError, match="twice"):
            registry.register(name)([])
        assert registry.get(name) is entry


@given(st.floats(), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.booleans())
def test_check_range_is_an_interval(value: float, low: float, width: float, above: bool) -> None:
    high = low + width
    if (low < value if above else low <= value) and value <= high:
        check_range("field", value, low, high, above=above)
    else:
        with pytest.raises(CapacityError, match=r"^field is .* must be in [(\[].*\]$"):
            check_range("field", value, low, high, CapacityError, above=above)


def test_one_request_at_fault_is_told_from_a_wrong_option() -> None:
    assert issubclass(CapacityError, InvalidRequestError)
    assert not issubclass(InvalidRequestError, ConfigError)
    for error in (ConfigError, InvalidRequestError):
        assert issubclass(error, PresizeError)
        assert issubclass(error, ValueError)
