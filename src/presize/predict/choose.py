"""From the option ``predictor`` to a predictor: a name of the registry, a directory, or whatever suits the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.errors import ConfigError, ModelError
from presize.predict.base import PREDICTORS, Predictor
from presize.predict.guard import Guarded
from presize.predict.hidden import Refining
from presize.predict.learned import Learned
from presize.predict.model import StateModel
from presize.predict.online import Online
from presize.predict.store import HEADER, read_header

AUTO = "auto"
SHIPPED = {DEFAULT_MODEL: Path(__file__).parent / "shipped" / DEFAULT_MODEL}  # what comes with the package


def choose(
    options: SchedulerOptions, model: str, fingerprint: Callable[[], str], state_size: int | None = None
) -> tuple[Predictor, str]:
    """The predictor, and a sentence on where forecasts come from ("" if the user has said so).

    fingerprint: of the served model's tokenizer; state_size: of its hidden states, if they can be had. ConfigError for
    an unknown name, ModelError for a damaged directory or one that was learned for another tokenizer or other states;
    see `Home` for what is wrong with one to learn in.
    """
    name = options.predictor
    if name == AUTO:
        if (shipped := _shipped(model, fingerprint)) is not None:
            return Guarded(_learned(shipped, options), options), ""
        _refuse_online(options, f"none was learned for {model}")
        return PREDICTORS.get("kaplan-meier")(options), (
            f"no length predictor was learned for {model}: forecasts start from the answers so far (kaplan-meier); "
            "`presize collect` and `presize learn` make one"
        )
    if name in PREDICTORS:
        _refuse_online(options, f"{name} is none")
        return PREDICTORS.get(name)(options), ""
    check_name(name)
    predictor, note = _learned(Path(name), options, fingerprint()), ""
    if isinstance(predictor, Learned) and isinstance(predictor.model, StateModel):
        note = _check_states(Path(name), predictor.model.size, model, state_size)
        shipped = _shipped(model, fingerprint)
        first = PREDICTORS.get("kaplan-meier")(options) if shipped is None else Learned.load(shipped)
        predictor = Refining(first, predictor)
    return Guarded(predictor, options), note


def _shipped(model: str, fingerprint: Callable[[], str]) -> Path | None:
    """The directory of the predictor that comes with the model."""
    shipped = SHIPPED.get(model)
    if shipped is not None and (shipped / HEADER).is_file() and read_header(shipped).tokenizer == fingerprint():
        return shipped
    return None


def _check_states(directory: Path, size: int, model: str, state_size: int | None) -> str:
    """A sentence if the states may be another model's, ModelError if they are."""
    learned = read_header(directory).model
    if state_size not in (None, size):
        raise ModelError(
            f"the predictor in {directory} reads the states of {learned}, {size} numbers; those of {model} have "
            f"{state_size}: learn one with `presize learn --model {model}`"
        )
    if Path(learned).name == Path(model).name:
        return ""
    return f"{directory} was learned from the states of {learned}: its forecasts for {model} are wrong if it is another"


def _learned(directory: Path, options: SchedulerOptions, tokenizer: str | None = None) -> Predictor:
    if options.learn_online is None:
        return Learned.load(directory, tokenizer)
    return Online(Path(options.learn_online), directory, options, tokenizer)


def _refuse_online(options: SchedulerOptions, reason: str) -> None:
    if options.learn_online is not None:
        raise ConfigError(
            f"learn_online needs a predictor of `presize learn`, and {reason}; name its directory with --predictor "
            "(kaplan-meier and ewma learn from the answers anyway)"
        )


def check_name(name: str) -> None:
    """ConfigError unless ``name`` is ``auto``, in the registry, or a directory."""
    if name != AUTO and name not in PREDICTORS and not (name and Path(name).is_dir()):
        raise ConfigError(
            f"predictor is {name!r}; it must be {AUTO}, one of {', '.join(PREDICTORS)}, or a directory that "
            "`presize learn` wrote"
        )
