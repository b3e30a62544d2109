"""`presize.optim`: an optimizer for self-attention models and what it rests on. It needs torch alone.

`BlockLowRank` is a drop-in for AdamW; `param_groups` sorts a model's parameters for it; `presize.optim.second_moment`
measures how well second moments are approximated.
"""

from presize.optim.block_low_rank import BlockLowRank, param_groups

__all__ = ["BlockLowRank", "param_groups"]
