"""A learned model: from what is seen of prompts to curves; and the kinds there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from presize.core.lengths import FloatArray, IntArray
from presize.errors import ModelError
from presize.predict.features import Float32
from presize.registry import Registry

Arrays = dict[str, NDArray[Any]]
Progress = Callable[[str, int, int], None]  # stage, done, total


class StoredModel(ABC):
    """A trained net or regression, ready to be asked."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """What is stored; `restored` takes them back."""

    def set_threads(self, count: int) -> None:
        """Threads that compute a batch, where the model can use them; 1 unless told."""

    def files(self) -> dict[str, bytes]:
        """Files that are stored beside the arrays, by name."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, arrays: Arrays, directory: Path) -> Self:
        """From what was stored; ModelError if it does not fit together."""


class LengthModel(StoredModel):
    """One that reads prompts."""

    @abstractmethod
    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        """(N, G) survival on `core.lengths.GRID`, from N prompts' tokens and (N, 4) side inputs."""


class StateModel(StoredModel):
    """One that reads what the served model made of a prompt. size: D, the numbers of a state."""

    size: int

    @abstractmethod
    def curves(self, states: Float32, sides: Float32) -> FloatArray:
        """(N, G) survival on `core.lengths.GRID`, from (N, D) hidden states (see `Query`) and (N, 4) side inputs."""


AnyModel = LengthModel | StateModel
MODELS: Registry[type[AnyModel]] = Registry("kind of learned predictor")


def checked(arrays: Arrays, shapes: dict[str, tuple[int | str, ...]]) -> tuple[Arrays, dict[str, int]]:
    """float32 arrays of these names, and the sizes that the letters in ``shapes`` stand for.

    ModelError if one is missing, has another shape than the rest asks for, or holds a number that is not finite.
    """
    found: Arrays = {}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise ModelError(f"the predictor's weights have no {name}")
        array = arrays[name]
        if array.dtype.kind not in "fiu":
            raise ModelError(f"the predictor's {name} holds {array.dtype}, not numbers")
        if array.ndim != len(shape):
            raise ModelError(f"the predictor's {name} has {array.ndim} dimensions; it must have {len(shape)}")
        for size, letter in zip(array.shape, shape, strict=True):
            wanted = letter if isinstance(letter, int) else sizes.setdefault(letter, size)
            if size != wanted:
                raise ModelError(f"the predictor's {name} has shape {array.shape}; {size} must be {wanted}")
        with np.errstate(over="ignore"):
            found[name] = array.astype(np.float32)
        if not np.isfinite(found[name]).all():
            raise ModelError(f"the predictor's {name} holds numbers that are not finite")
    return found, sizes
