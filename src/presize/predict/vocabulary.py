"""Are these the tokens that a predictor has learned to read?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def fingerprint(vocabulary: Mapping[str, int]) -> str:
    """Of token texts and their ids; the same for two tokenizers that make the same tokens."""
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    return hashlib.blake2b(repr(ordered).encode(), digest_size=16).hexdigest()
