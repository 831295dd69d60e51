"""What is asked of a causal language model of any architecture: how wide it is, how many tokens it
knows, how far it reads.

Some keep these in a part of their configuration, since they also read images; some have no longest
sequence, since they count places by distance or not at all.
"""

from __future__ import annotations

import sys
from typing import Any


def text_config(model: Any) -> Any:
    """The configuration of what reads and writes text."""
    return model.config.get_text_config(decoder=True)


def positions_of(model: Any) -> int:
    """Longest sequence that the model has places for, in tokens; where it counts none, more than
    any text has."""
    places: int | None = getattr(text_config(model), "max_position_embeddings", None)
    # XLNet's is -1.
    return places if places and places > 0 else sys.maxsize
