"""From the option ``predictor`` to a predictor: a name of the registry, a directory, or whatever suits the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.errors import ConfigError
from presize.predict.base import PREDICTORS, Predictor
from presize.predict.guard import Guarded
from presize.predict.learned import Learned
from presize.predict.store import HEADER, read_header

AUTO = "auto"
_SHIPPED = {DEFAULT_MODEL: Path(__file__).parent / "shipped" / DEFAULT_MODEL}


def choose(options: SchedulerOptions, model: str, fingerprint: Callable[[], str]) -> tuple[Predictor, str]:
    """The predictor, and a sentence on where forecasts come from ("" if the user has said so).

    fingerprint: of the served model's tokenizer. ConfigError for an unknown name, ModelError for a damaged directory
    or one that was learned for another tokenizer.
    """
    name = options.predictor
    if name == AUTO:
        shipped = _SHIPPED.get(model)
        if shipped is not None and (shipped / HEADER).is_file() and read_header(shipped).tokenizer == fingerprint():
            return Guarded(Learned.load(shipped), options), ""
        return PREDICTORS.get("kaplan-meier")(options), (
            f"no length predictor was learned for {model}: forecasts start from the answers so far (kaplan-meier); "
            "`presize collect` and `presize learn` make one"
        )
    if name in PREDICTORS:
        return PREDICTORS.get(name)(options), ""
    if not name or not Path(name).is_dir():
        raise ConfigError(
            f"predictor is {name!r}; it must be {AUTO}, one of {', '.join(PREDICTORS)}, or a directory that "
            "`presize learn` wrote"
        )
    return Guarded(Learned.load(Path(name), fingerprint()), options), ""
