"""The law's kind of network: every head has its keys and values, the feed-forward part is 4 d_x wide inside."""

from __future__ import annotations

from dataclasses import dataclass

from presize.theory.depth_width.network import check_shape


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, width d_x, and heads, which divide it; ConfigError otherwise."""

    depth: int
    width: int
    heads: int

    def __post_init__(self) -> None:
        check_shape(self.depth, self.width, self.heads)

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.width // self.heads

    @property
    def law_parameters(self) -> int:
        """12 L d_x^2: the size by which the law compares shapes."""
        return law_parameters(self.depth, self.width)


def law_parameters(depth: int, width: int) -> int:
    """12 L d_x^2: weights of the layers' matrices, without embeddings, biases and norms."""
    return 12 * depth * width**2


def default_head_size(width: float) -> int:
    """Elements of a head where nothing else is asked for: 64, and 128 from a width of 1,536 on."""
    return 128 if width >= 1536 else 64
