"""The store's root, and where DAG params may point: whoever may trigger a DAG must not read every
file that the cluster can read.

Allowed are locations below the store's root and below each root in ``BOIG_ROOTS``, separated by
commas: folders, ``s3://BUCKET/PREFIX``, ``https://HOST/PATH``. Leaves out: whether something is
there, and what a recipe names inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from boig_core import environment
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


def allowed(uri: str, root: str) -> str:
    """A location that a param may name, normalized.

    Args:
        uri: the location, or a glob of it.
        root: root of the store.

    Raises:
        InputError: it lies below none of the roots, or is no location.
    """
    uri = store.normalize_source(uri)
    # A folder's are resolved by now, a server resolves others.
    climbs = "://" in uri and ".." in unquote(uri).replace("\\", "/").split("/")
    named = [place.strip() for place in (environment.ROOTS.read() or "").split(",")]
    roots = [store.normalize(root), *(store.normalize_source(place) for place in named if place)]
    # With the slash: the root /store must not allow /store-of-another.
    if climbs or not any(
        uri == place or uri.startswith(place.rstrip("/") + "/") for place in roots
    ):
        raise InputError(
            uri,
            f"lies below no allowed root ({', '.join(roots)})",
            "copy it there, or have its root added to BOIG_ROOTS",
        )
    return uri
