"""`AttentionProbe`: what anyone's attention does while it is trained.

    with AttentionProbe(model, log="attention.jsonl"):
        train(model)

It sees torch's scaled_dot_product_attention, wherever the model calls it, and softmax within a module that is called
attention; so it works on transformers' models ("sdpa" and "eager"), on torch.nn.MultiheadAttention, and on nets of
one's own. Compiled models (torch.compile) and kernels that torch does not know hide from it. Only every so many steps
anything is done, on a few sequences and queries, without gradients.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from presize.errors import ConfigError, check_range
from presize.theory.scan_snap.probe_log import Row, scanning_ended

_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)
_NAMES = ("attention", "attn")  # of modules, or of their classes
_SPARSE = 0.1  # of an even share: a key with less counts as dropped
_FREQUENT = 0.5  # of all tokens so far: the most frequent ids that make up this share
_VOCABULARY = 2**24

Tokens = Callable[..., Tensor]
Seen = Callable[[int, str, Tensor, Tensor | None], None]  # step, layer, weights (B, H, Q, S), ids (B, S)


class AttentionProbe:
    """Watches the training passes of ``model`` (those in ``train()`` mode) until it is closed.

    every: steps between looks. sequences, queries: how many of a batch are looked at. log: a file that gets a line a
    look (`probe_log.Row`); it must not exist. tokens: from the model's arguments to the token ids (B, S) of the keys
    (default: ``input_ids``, or the first whole-number matrix). distinct: (V,) true for ids that belong to one class
    only. frequent: (V,) likewise; without it, the ids that make up half of all tokens of the looks so far. weights:
    names of modules whose output is attention weights (B, H, Q, S) or (B, Q, S), not yet normalised. seen: told of the
    weights.
    """

    def __init__(
        self, model: nn.Module, *, every: int = 10, sequences: int = 4, queries: int = 64,
        log: str | Path | None = None, tokens: Tokens | None = None, distinct: Tensor | None = None,
        frequent: Tensor | None = None, weights: Sequence[str] = (), seen: Seen | None = None,
    ) -> None:  # fmt: skip
        for name, value in (("every", every), ("sequences", sequences), ("queries", queries)):
            check_range(name, value, 1, 2**31)
        modules = dict(model.named_modules())
        for name in weights:
            if name not in modules:
                raise ConfigError(f"weights names {name!r}; the model has no such module")
        self.model = model
        self.rows: list[Row] = []
        self.sequences = sequences
        self._every, self._queries = every, queries
        self._tokens, self._distinct, self._frequent, self._seen = tokens, distinct, frequent, seen
        self._counts = torch.zeros(0)
        self._masks: dict[str, Tensor | None] = {}
        self._step = 0
        self._path: list[tuple[str, nn.Module]] = []
        self._ids: Tensor | None = None
        self._found: dict[str, dict[str, list[float] | None]] = {}
        self._mode: _Mode | None = None
        self._log = None if log is None else Path(log).absolute()
        if self._log is not None:
            self._log.touch(exist_ok=False)
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]
        for name, module in modules.items():
            if module is model:
                self._root = (type(model).__name__, model)
            elif any(part in f"{name.rpartition('.')[2]} {type(module).__name__}".lower() for part in _NAMES):
                self._hooks += [
                    module.register_forward_pre_hook(self._enter(name)),
                    module.register_forward_hook(self._leave, always_call=True),
                ]
            if name in weights:
                self._hooks.append(module.register_forward_hook(self._given(name)))

    def __enter__(self) -> AttentionProbe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away; the rows and the log stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def scanning_ended(self, layer: str | None = None) -> int | None:
        """When attention of a layer (default: the mean of all) stopped moving much; None while it moves."""
        names = list(self.rows[-1].layers) if self.rows else []
        if layer is not None and layer not in names:
            raise ConfigError(f"layer is {layer!r}; known: {', '.join(names) or 'none yet'}")
        chosen = [layer] if layer is not None else names
        means = [sum(row.mean(name, "evenness") for name in chosen) / len(chosen) for row in self.rows]
        return scanning_ended([row.step for row in self.rows], means)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        self._step += 1
        if (self._step - 1) % self._every:
            return
        ids = self._ids_of(args, kwargs)
        if self._frequent is None and ids is not None:
            self._count(ids)
        self._masks = {"frequent": self._is_frequent(), "distinct": self._distinct}
        self._ids, self._found, self._path = ids, {}, [self._root]
        self._mode = _Mode(self)
        self._mode.__enter__()

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if self._mode is None:
            return
        self._mode.__exit__(None, None, None)
        self._mode = None
        if output is None or not self._found:  # the pass has failed, or has no attention
            return
        row = Row(self._step - 1, self._found)
        self.rows.append(row)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(row.line())

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._mode is not None:
                self._path.append((name, module))

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._mode is not None and self._path[-1][1] is module:
            self._path.pop()

    def _given(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if self._mode is not None:
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    weights = output.detach()[: self.sequences]
                    weights = weights[:, :, None] if weights.dim() == 3 else weights
                    self.keep(name, weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-30))

        return hook

    def _ids_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        if self._tokens is not None:
            return self._tokens(*args, **kwargs)
        for value in (kwargs.get("input_ids"), *args):
            if isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
                return value
        return None

    def _count(self, ids: Tensor) -> None:
        ids = ids.detach().flatten().cpu()
        if not ids.numel() or int(ids.min()) < 0 or int(ids.max()) >= _VOCABULARY:
            return
        found = torch.bincount(ids, minlength=len(self._counts)).float()
        found[: len(self._counts)] += self._counts
        self._counts = found

    def _is_frequent(self) -> Tensor | None:
        if self._frequent is not None or not len(self._counts):
            return self._frequent
        order = self._counts.argsort(descending=True)
        before = self._counts[order].cumsum(0) - self._counts[order]
        mask = torch.zeros(len(self._counts), dtype=torch.bool)
        mask[order] = before < _FREQUENT * self._counts.sum()
        return mask

    def of_scores(self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> None:
        """Attention of (B, H, L, E) queries on (B, G, S, E) keys, or without B or H; H may be a multiple of G."""
        while query.dim() < 4:
            query, key = query.unsqueeze(-3), key.unsqueeze(-3)
        query, key = query[: self.sequences].float(), key[: self.sequences].float()
        places = self._places(query.shape[-2]).to(query.device)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = query[:, :, places] @ key.transpose(-2, -1) * scale
        if causal:
            later = torch.arange(key.shape[-2], device=places.device)[None] > places[:, None]
            scores = scores.masked_fill(later, -math.inf)
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], query.shape[-2], key.shape[-2])[..., places, :]
            mask = mask[: self.sequences] if mask.dim() == 4 else mask
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()
        self.keep(self._path[-1][0], scores.softmax(dim=-1).nan_to_num(0.0))

    def of_softmax(self, weights: Tensor) -> None:
        """(B, H, L, S), or (B, L, S), if it is of a module that is called attention."""
        if len(self._path) > 1 and weights.dim() in (3, 4):
            self.of_weights(weights if weights.dim() == 4 else weights[:, None])

    def of_weights(self, weights: Tensor) -> None:
        """(B, H, L, S) of the module that is at work."""
        name = self._path[-1][0]
        places = self._places(weights.shape[-2]).to(weights.device)
        self.keep(name, weights[: self.sequences, :, places].float())

    def _places(self, length: int) -> Tensor:
        count = min(self._queries, length)
        return torch.linspace(0, length - 1, count).round().long()

    def keep(self, layer: str, weights: Tensor) -> None:
        """Measure (B, H, Q, S) weights, each row adding up to 1, or to 0 where a query sees nothing."""
        name, again = layer, 1
        while name in self._found:  # a module that attends more than once in a pass
            again += 1
            name = f"{layer}#{again}"
        visible = weights > 0
        sees = visible.any(dim=-1)

        def mean(values: Tensor) -> list[float]:
            total = (values * sees).sum(dim=(0, 2)) / sees.sum(dim=(0, 2)).clamp_min(1)
            return [round(value, 6) for value in total.tolist()]

        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1)
        count = visible.sum(dim=-1, keepdim=True).clamp_min(1)
        dropped = (visible & (weights < _SPARSE / count)).sum(dim=-1) / count[..., 0]
        ids = None
        if self._ids is not None and self._ids.shape[-1] == weights.shape[-1]:
            ids = self._ids[: len(weights)]
        self._found[name] = {
            "entropy": mean(entropy),
            "evenness": mean(entropy / count[..., 0].clamp_min(2).log()),
            "sparsity": mean(dropped),
            **{
                measure: None if ids is None or mask is None else mean(_share(weights, mask, ids))
                for measure, mask in self._masks.items()
            },
        }
        if self._seen is not None:
            self._seen(self._step - 1, name, weights, ids)


def _share(weights: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    """(B, H, Q) attention on the keys whose id is in the mask (V,); ids beyond it are not."""
    mask = mask.to(device=ids.device, dtype=torch.bool)
    inside = mask[ids.clamp(0, len(mask) - 1)] & (ids >= 0) & (ids < len(mask))
    return (weights * inside[:, None, None, :]).sum(dim=-1)


class _Mode(TorchFunctionMode):
    """Sees the torch functions that a look is interested in."""

    def __init__(self, probe: AttentionProbe) -> None:
        super().__init__()
        self._probe = probe

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with torch.no_grad():
                self._multihead(inspect.signature(func).bind(*args, **kwargs).arguments)
        if func is functional.scaled_dot_product_attention:
            with torch.no_grad():
                self._attend(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX:
            with torch.no_grad():
                self._probe.of_softmax(result.detach())
        return result

    def _multihead(self, given: dict[str, Any]) -> None:
        """torch.nn.MultiheadAttention's function, asked for its weights: on (L, B, E), or (L, E), without dropout."""
        count, heads = self._probe.sequences, given["num_heads"]
        given = {name: value.detach() if isinstance(value, Tensor) else value for name, value in given.items()}
        if given["query"].dim() == 3:
            given |= {name: given[name][:, :count] for name in ("query", "key", "value")}
        padding, mask = given.get("key_padding_mask"), given.get("attn_mask")
        if padding is not None and padding.dim() == 2:
            given["key_padding_mask"] = padding[:count]
        if mask is not None and mask.dim() == 3:
            given["attn_mask"] = mask[: count * heads]
        given |= {"training": False, "need_weights": True, "average_attn_weights": False}
        weights = functional.multi_head_attention_forward(**given)[1]
        assert weights is not None
        self._probe.of_weights(weights if weights.dim() == 4 else weights[None])

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> None:  # fmt: skip
        mask = None if attn_mask is None else attn_mask.detach()
        self._probe.of_scores(query.detach(), key.detach(), mask, is_causal, scale)
