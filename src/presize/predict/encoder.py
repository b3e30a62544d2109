"""A sentence encoder with a hazard head, in ONNX with 8-bit weights: the accurate choice, some ms a prompt.

all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), fine-tuned whole by `presize.predict.train.encoder`.
It reads words, so a prompt's tokens are first turned back into text. `s3` is the same encoder as a classifier of ten
equal buckets, as in S^3 (Jin et al. 2023, there DistilBERT). N prompts, T word pieces, K cells or buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from presize.core.lengths import GRID, FloatArray, IntArray
from presize.errors import ModelError, first_line, require
from presize.predict.features import Float32
from presize.predict.hazard import sigmoid, survival_of
from presize.predict.linear import Linear
from presize.predict.model import MODELS, Arrays, LengthModel, checked

NET, PIECES, SERVED = "encoder.onnx", "word-pieces.json", "served-tokenizer.json"
MAX_PIECES = 256  # word pieces read: both ends of a longer prompt
BUCKETS = 10
_LINEAR = "linear."  # before the names of the linear predictor's arrays
_BATCH_PIECES = 4096  # word pieces in one run of the net, with padding


class Words:
    """The served model's tokens to word pieces of the encoder. Both tokenizers as the contents of their files."""

    def __init__(self, served: bytes, pieces: bytes) -> None:
        from tokenizers import Tokenizer

        self.contents = {SERVED: served, PIECES: pieces}
        self._served = Tokenizer.from_str(served.decode())
        self._pieces = Tokenizer.from_str(pieces.decode())
        self._pieces.no_padding()
        self._pieces.no_truncation()

    def __call__(self, prompts: Sequence[IntArray]) -> list[IntArray]:
        """(T,) word pieces of each prompt, at most MAX_PIECES."""
        texts = self._served.decode_batch([prompt.tolist() for prompt in prompts], skip_special_tokens=True)
        found = [np.array(encoding.ids, dtype=np.int64) for encoding in self._pieces.encode_batch(texts)]
        half = MAX_PIECES // 2
        return [ids if len(ids) <= MAX_PIECES else np.concatenate([ids[:half], ids[-half:]]) for ids in found]


@MODELS.register("encoder")
class Encoder(LengthModel):
    """``net``: the ONNX file's content. ``share`` of the curve is a linear predictor's, if there is one: that errs
    elsewhere, so that the mixture is better than either.
    """

    def __init__(self, net: bytes, words: Words, linear: Linear | None = None, share: float = 0.0) -> None:
        self._net, self._words = net, words
        self._linear, self._share = linear, share
        self.set_threads(1)

    def set_threads(self, count: int) -> None:
        require("onnxruntime", "encoder", "the encoder")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = count
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the engine's threads need the cores
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(self._net, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises bare exceptions for damaged files
            raise ModelError(f"the predictor's {NET} can not be loaded: {first_line(error)}") from error

    @classmethod
    def restored(cls, arrays: Arrays, directory: Path) -> Encoder:
        try:
            net, served, pieces = ((directory / name).read_bytes() for name in (NET, SERVED, PIECES))
            words = Words(served, pieces)
        except Exception as error:  # tokenizers raises bare exceptions
            raise ModelError(f"the predictor in {directory} is damaged: {first_line(error)}") from error
        if "share" not in arrays:
            return cls(net, words)
        mixture, _ = checked(arrays, {"share": (1,)})
        if not 0.0 <= mixture["share"][0] <= 1.0:
            raise ModelError(f"the predictor's share is {mixture['share'][0]}; it must be in [0, 1]")
        linear = {name.removeprefix(_LINEAR): array for name, array in arrays.items() if name.startswith(_LINEAR)}
        return cls(net, words, Linear(linear), float(mixture["share"][0]))

    def arrays(self) -> Arrays:
        if self._linear is None:
            return {}
        linear = {_LINEAR + name: array for name, array in self._linear.arrays().items()}
        return {"share": np.array([self._share], dtype=np.float32), **linear}

    def blended(self, linear: Linear, share: float) -> Encoder:
        """With ``share`` of another's curve in its own."""
        return Encoder(self._net, self._words, linear, share)

    def files(self) -> dict[str, bytes]:
        return {NET: self._net, **self._words.contents}

    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        own = survival_of(sigmoid(self.logits(prompts, sides)))
        if self._linear is None:
            return own
        return own + self._share * (self._linear.curves(prompts, sides) - own)

    def logits(self, prompts: Sequence[IntArray], sides: Float32) -> Float32:
        """(N, K); prompts of similar length go through the net together."""
        pieces = self._words(prompts)
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
        found: dict[int, Any] = {}
        while order:
            longest = max(len(pieces[i]) for i in order[: max(_BATCH_PIECES // MAX_PIECES, 1)])
            rows = [i for i in order[: max(_BATCH_PIECES // longest, 1)] if len(pieces[i]) <= longest]
            order = order[len(rows) :]
            ids = np.zeros((len(rows), longest), dtype=np.int64)
            for row, i in zip(ids, rows, strict=True):
                row[: len(pieces[i])] = pieces[i]
            mask = np.arange(longest) < np.array([len(pieces[i]) for i in rows])[:, None]
            inputs = {"pieces": ids, "mask": mask.astype(np.int64), "sides": sides[rows]}
            found.update(zip(rows, self._session.run(None, inputs)[0], strict=True))
        return np.stack([found[i] for i in range(len(pieces))])


@MODELS.register("s3")
class S3Classifier(Encoder):
    """Probabilities of ten equal buckets; within a bucket every length is as likely. The width is in the arrays."""

    def __init__(self, net: bytes, words: Words, bucket: int) -> None:
        super().__init__(net, words)
        self._bucket = bucket

    @classmethod
    def restored(cls, arrays: Arrays, directory: Path) -> S3Classifier:
        plain = Encoder.restored(arrays, directory)
        bucket = arrays.get("bucket", np.zeros(0))
        if bucket.shape != (1,) or not 1 <= bucket[0] <= GRID[-1]:
            raise ModelError("the predictor's bucket must be one width in tokens")
        return cls(plain._net, plain._words, int(bucket[0]))

    def arrays(self) -> Arrays:
        return {"bucket": np.array([self._bucket], dtype=np.int64)}

    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        logits = self.logits(prompts, sides).astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        edges = np.arange(BUCKETS + 1) * self._bucket
        longer = 1.0 - np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
        return np.stack([np.interp(GRID, edges, row) for row in longer])
