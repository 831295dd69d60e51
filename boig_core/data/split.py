"""Splits: every post belongs to train, validation or test by a hash of its id, so that adding posts moves none of the others."""

from __future__ import annotations

import hashlib

from boig_core.vocabulary import Split


def unit(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1) that is a pure function of its arguments, even over keys."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(seed: int, post: str, shares: tuple[float, float, float]) -> Split:
    """The split of a post.

    Args:
        seed: of the recipe.
        post: id of the post; all its images share a split.
        shares: of train, validation, test; they sum to 1.
    """
    at = unit(seed, "split", post)
    if at < shares[0]:
        return "train"
    return "validation" if at < shares[0] + shares[1] else "test"
