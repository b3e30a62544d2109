"""A learned predictor on disk: a directory with `predictor.json` and `weights.safetensors`; nothing in it is code."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from presize.core.lengths import GRID
from presize.errors import ConfigError, ModelError, first_line
from presize.predict.calibration import Calibration
from presize.predict.encoder import NET, PIECES, SERVED
from presize.predict.features import SIDES, Features
from presize.predict.model import MODELS, AnyModel, StoredModel

HEADER, WEIGHTS = "predictor.json", "weights.safetensors"
FORMAT = 1
_OWN = {HEADER, WEIGHTS, NET, PIECES, SERVED}
_MAX_HEADER_BYTES = 2**22
_GRID_HASH = hashlib.blake2b(GRID.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a learned predictor. tokenizer: fingerprint of the one whose tokens it reads.

    training: rows, prompts, share cut off, seconds and the like, for people; metrics: on the held-out part.
    """

    kind: str
    model: str
    tokenizer: str
    features: Features
    calibration: Calibration
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    licence: str = "unknown"


def save(directory: Path, header: Header, model: StoredModel) -> None:
    """Write a new ``directory``, or replace one that holds a predictor, in one move; ConfigError if it holds others."""
    from safetensors.numpy import save_file

    _figures(header.training), _figures(header.metrics)
    check_target(directory)
    directory = directory.resolve()  # of a link, what it points to is replaced
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        content = {"format": FORMAT, "grid": _GRID_HASH, **asdict(header)}
        (work / HEADER).write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
        save_file({name: np.ascontiguousarray(array) for name, array in model.arrays().items()}, work / WEIGHTS)
        for name, content_of_file in model.files().items():
            (work / name).write_bytes(content_of_file)
        for path in work.iterdir():
            path.chmod(0o644)
        work.chmod(0o755)
        if directory.exists():
            old = work.with_name(work.name + "-old")
            directory.rename(old)
            try:
                work.rename(directory)
            except BaseException:
                old.rename(directory)
                raise
            shutil.rmtree(old)
        else:
            work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def check_target(directory: Path) -> None:
    """ConfigError unless ``directory`` is not there, empty, or a predictor that may be replaced."""
    if directory.is_file():
        raise ConfigError(f"{directory} is a file; name a directory for the predictor")
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if names and (HEADER not in names or names - _OWN):  # all of it would be removed
        raise ConfigError(f"{directory} holds files that are not a predictor's; name another directory")


def load(directory: Path, tokenizer: str | None = None) -> tuple[Header, AnyModel]:
    """The predictor in ``directory``; ModelError says what is missing, damaged, or does not fit.

    ``tokenizer``: fingerprint of the served model's; a predictor of another one's tokens is refused.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header = read_header(directory)
    if tokenizer is not None and header.tokenizer != tokenizer:
        raise ModelError(
            f"the predictor in {directory} was learned for {header.model}, whose tokenizer is another one; "
            "learn one for this model with `presize collect` and `presize learn`"
        )
    try:
        arrays = load_file(directory / WEIGHTS)
    # TypeError, AttributeError: number types that numpy does not have
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{directory / WEIGHTS} can not be read: {first_line(error)}") from error
    try:
        return header, MODELS.get(header.kind).restored(arrays, directory)
    except ConfigError as error:
        raise ModelError(f"{directory / HEADER}: {error}") from error


def read_header(directory: Path) -> Header:
    """ModelError if it is missing, damaged or of another version."""
    path = directory / HEADER
    try:
        if path.stat().st_size > _MAX_HEADER_BYTES:
            raise ModelError(f"{path} is larger than {_MAX_HEADER_BYTES:,} bytes; it is no predictor's header")
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{directory} holds no predictor: {HEADER} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can not be read: {first_line(error)}") from error
    try:
        if raw["format"] != FORMAT or raw["grid"] != _GRID_HASH:
            raise ModelError(f"{path} is of another version of Presize; learn the predictor again")
        features, calibration = raw["features"], raw["calibration"]
        return Header(
            kind=str(raw["kind"]),
            model=str(raw["model"]),
            tokenizer=str(raw["tokenizer"]),
            features=Features(
                _tokens(features["prefix"]),
                _tokens(features["suffix"]),
                _numbers(features["mean"], len(SIDES)),
                _numbers(features["scale"], len(SIDES)),
            ),
            calibration=Calibration(_numbers(calibration["values"])),
            training=_figures(raw["training"]),
            metrics=_figures(raw["metrics"]),
            licence=str(raw["licence"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error


def _tokens(values: Sequence[Any]) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("token ids must be whole numbers")
    return tuple(values)


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that are finite, and short texts such as dates."""
    found = dict(values)
    for value in found.values():
        if isinstance(value, int | float):
            _numbers([value])
        elif not isinstance(value, str):
            raise ValueError("training and metrics must hold numbers and texts")
    return found


def _numbers(values: Sequence[Any], count: int | None = None) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if (count is not None and len(found) != count) or not np.isfinite(found).all():
        raise ValueError(f"{count or 'some'} finite numbers are needed")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} can not be stored")
