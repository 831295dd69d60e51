"""Splits: every post belongs to train, validation or test, and posts that share an image belong together.

By a hash of its id, so that adding posts moves none of the others (but those that a new one shares an image with); by a hash of its
account; or by time, the earliest to train. Leaves out: images that look alike and are not the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from boig_core.config import SplitBy
from boig_core.vocabulary import Split


@dataclass(frozen=True)
class Key:
    """What decides a post's split: its ``id``, ``account``, ``timestamp`` (sorts as text) and the hashes of its ``images``."""

    id: str
    account: str
    timestamp: str
    images: tuple[str, ...]


def splits_of(keys: Sequence[Key], by: SplitBy, shares: tuple[float, float, float], seed: int) -> list[Split | None]:
    """The split of each post, whatever their order.

    Args:
        keys: of the posts, ids distinct.
        by: what never crosses splits: a post with its images, an account, or an instant.
        shares: of train, validation, test; they sum to 1.
        seed: of the hashes; time needs none.

    Returns:
        One a post; None for one that by time belongs to a later split than another that shares an image with it, so to none.
    """
    group_of = _groups([(f"post {key.id}", *key.images, *([f"account {key.account}"] if by == "account" else [])) for key in keys])
    if by != "time":
        names: dict[str, str] = {}
        for key, group in zip(keys, group_of, strict=True):
            name = key.account if by == "account" else key.id
            names[group] = min(name, names.get(group, name))
        return [split_of(seed, names[group], shares) for group in group_of]
    moments = sorted(key.timestamp for key in keys)
    edges = [moments[min(round(len(keys) * share), len(keys) - 1)] for share in (shares[0], shares[0] + shares[1])] if keys else []
    first: dict[str, str] = {}
    for key, group in zip(keys, group_of, strict=True):
        first[group] = min(key.timestamp, first.get(group, key.timestamp))
    found = [(_at(key.timestamp, edges), _at(first[group], edges)) for key, group in zip(keys, group_of, strict=True)]
    return [own if own == earliest else None for own, earliest in found]


def _at(moment: str, edges: Sequence[str]) -> Split:
    if moment < edges[0]:
        return "train"
    return "validation" if moment < edges[1] else "test"


def _groups(linked: Iterable[Sequence[str]]) -> list[str]:
    """For each row of names, a name that all rows have in common which share one, directly or through others (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    rows = [list(names) for names in linked]
    for names in rows:
        for name in names[1:]:
            parent[root(name)] = root(names[0])
    return [root(names[0]) for names in rows]


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
