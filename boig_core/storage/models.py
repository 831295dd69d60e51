"""Models that are read from a store: what a reference leads to, on this machine, and which state of
it that is.

A reference is what `boig_core.models` resolves, or a store URI. Leaves out: opening a model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boig_core.config.locations import file_url_path
from boig_core.errors import InputError
from boig_core.models import model_version
from boig_core.storage import manifest, store


@contextmanager
def located(ref: str, value: str) -> Iterator[str]:
    """A folder, file or hub id that a library opens; what stands in an object store is fetched for
    as long as it is read.

    An output of boig, which has a manifest, is verified by it, also in a local store.

    Args:
        ref: a reference of `boig_core.models`, ``s3://…`` or ``file://…``.
        value: what names the model, for messages.

    Raises:
        InputError: nothing stands there.
        CorruptError: a file differs from the manifest.
        StoreUnavailableError: the store does not answer.
    """
    local = file_url_path(ref) if ref.startswith("file://") else ref
    if not store.is_s3(ref) and not _is_output(local):
        # A home folder is known by its whole path alone; anything else may be a hub id.
        yield str(Path(local).expanduser()) if local.startswith("~") else local
        return
    with tempfile.TemporaryDirectory(prefix="boig-model-") as scratch:
        target = Path(scratch)
        if _is_output(local):
            manifest.fetch_folder(local, target)
        elif store.exists(ref):
            target = target / store.name(ref)
            store.download_file(ref, target)
        else:
            store.download_folder(ref, target)
            if not any(target.iterdir()):
                raise InputError(
                    value, "leads nowhere: the store holds no such model", "correct it"
                )
        yield str(target)


def version_of(ref: str) -> str:
    """What tells one state of a model from another: digest of an output's manifest, SHA-256 of what
    else stands in a store, or as `model_version`.

    Args:
        ref: as of `located`.

    Raises:
        InputError: the reference leads nowhere.
        StoreUnavailableError: the store does not answer.
    """
    local = file_url_path(ref) if ref.startswith("file://") else ref
    if _is_output(local):
        return manifest.read_manifest(local).digest()
    if not store.is_s3(ref):
        return model_version(local)
    with located(ref, ref) as place:
        # The same as that of a copy which lies here.
        return model_version(place)


def _is_output(ref: str) -> bool:
    """Whether an output of boig stands there, in its place in a store; a hub id is none."""
    if store.is_s3(ref):
        return store.exists(store.join(ref, manifest.MANIFEST))
    path = Path(ref).expanduser() / manifest.MANIFEST
    if not path.is_file():
        return False
    # Other tools leave a manifest.json, too; and a copy outside of a store is a folder like any.
    try:
        place = json.loads(path.read_bytes()).get("place")
    except (ValueError, AttributeError):
        return False
    return isinstance(place, str) and path.parent.resolve().as_posix().endswith(f"/{place}")
