"""The store's root, and where DAG params may point: whoever may trigger a DAG must not read every
file that the cluster can read.

Allowed are locations below the store's root and below the roots of the policy. Leaves out: whether
something is there, and what a recipe names inside (see `boig_core.config.policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from boig_core import environment
from boig_core.config import Policy
from boig_core.errors import InputError
from boig_core.storage import manifest, places, store


def store_root(other: str | None = None) -> str:
    """Root of the store: ``BOIG_STORE``, else what an asset event named.

    Raises:
        InputError: neither is set, or it is no location.
    """
    root = environment.STORE.read() or other
    if not root:
        raise InputError(
            environment.STORE.name,
            "is not set",
            "set it to s3://BUCKET/PREFIX or a folder, for Airflow and Ray alike",
        )
    return store.normalize(root)


def follow_store(extra: Mapping[str, Any]) -> dict[str, Any]:
    """An asset event's extra for the store of today: what an event names may since have been copied
    to another root, together with its store.

    Raises:
        InputError: as `store_root`.
    """
    before = str(extra.get("store") or "")
    root = store_root(before) if before else ""
    if not before or store.normalize(before) == root:
        return dict(extra)
    outputs = {
        name: places.in_copy(uri, before, root, manifest.MANIFEST)
        for name, uri in extra.get("outputs", {}).items()
    }
    recipe = extra.get("recipe")
    moved = {"recipe": places.in_copy(recipe, before, root)} if recipe else {}
    return {**extra, "outputs": outputs, **moved}


def allowed(
    uri: str, root: str, policy: Policy, field: Literal["posts", "recipes", "outputs"]
) -> str:
    """A location that a param may name, normalized.

    Args:
        uri: the location, or a glob of it.
        root: root of the store.
        policy: of this installation.
        field: whose roots are allowed beside the store.

    Raises:
        PolicyError: it lies below none of the roots.
        InputError: it is no location.
    """
    uri = store.normalize_source(uri)
    policy.require_location(uri, field, root)
    return uri
