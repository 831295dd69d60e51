"""The store's root, and where DAG params may point: whoever may trigger a DAG must not read every
file that the cluster can read.

Allowed are locations below the store's root and below each root in ``BOIG_ROOTS``, separated by
commas: folders, ``s3://BUCKET/PREFIX``, ``https://HOST/PATH``. Leaves out: whether something is
there, and what a recipe names inside.
"""

from __future__ import annotations

from urllib.parse import unquote

from boig_core import environment
from boig_core.errors import InputError
from boig_core.storage import store


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
