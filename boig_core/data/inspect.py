"""A dataset looked at from outside: is it whole, what was left out, what has changed since another
version?

Leaves out: reading a dataset for training (see `dataset`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from boig_core.data import dataset, tables
from boig_core.data.rejects import CHOICES
from boig_core.errors import CorruptError
from boig_core.observability.tables import broken
from boig_core.storage import manifest, store
from boig_core.vocabulary import Sample


def verify_dataset(uri: str) -> dict[str, int]:
    """Read every byte of a dataset again.

    Args:
        uri: of a dataset.

    Returns:
        Counts of ``files``, ``bytes``, ``samples``, ``images``.

    Raises:
        NotFoundInStoreError: no such dataset.
        CorruptError: it was never committed, a file is missing or differs from the manifest, or a
            sample's image is in no shard.
    """
    parts = manifest.verify(uri, kind=dataset.KIND)
    images = dataset.shards(parts, tables.IMAGES)
    with tempfile.TemporaryDirectory(prefix="boig-verify-") as scratch:
        # Image shards are compared below, where their hashes are read, so that each is read once.
        for entry in parts.files:
            if entry not in images:
                manifest.fetch_file(uri, entry, Path(scratch) / "file")
    stored = {image.sha256 for entry in images for image in dataset.shard_images(uri, entry)}
    samples = dataset.read_samples(uri)
    if lost := {sample.image for sample in samples} - stored:
        raise CorruptError(
            uri,
            f"{len(lost)} images of its samples are in no shard, the first {min(lost)}",
            "run ingest again",
        )
    return {
        "files": len(parts.files),
        "bytes": sum(entry.size for entry in parts.files),
        "samples": len(samples),
        "images": len(stored),
    }


def reject_lines(
    by_code: Mapping[str, list[dict[str, Any]]], most: int, rows: bool = False
) -> Iterator[str]:
    """What `dataset.read_rejects` has read, for a terminal.

    Args:
        by_code: rows by code.
        most: of each code, so many are shown; 0: all.
        rows: show each row itself, too.
    """
    for code, rejects in by_code.items():
        yield f"{code}: {len(rejects)}" + (" (a choice of the recipe)" if code in CHOICES else "")
        for reject in rejects[: most or None]:
            names = {"post": reject["post"], "image": reject["image"]}
            place = f"{store.name(reject['file'])}, line {reject['line']}"
            place += "".join(f", {name} {value}" for name, value in names.items() if value)
            yield from broken(place, indent=" " * 6, first=" " * 4)
            yield from broken(reject["reason"], indent=" " * 8)
            if rows:
                yield from broken(reject["row"] or "(the row was not kept)", indent=" " * 8)
        if most and len(rejects) > most:
            yield f"    and {len(rejects) - most} more (all of them: --limit 0)"
    if not by_code:
        yield "no rejects"


def diff(old: str, new: str) -> dict[str, Any]:
    """What has changed from one dataset to another.

    Args:
        old: URI of a dataset.
        new: URI of another, usually a later version of the same.

    Returns:
        ``added`` and ``removed``: ids of samples; ``changed``: ids of samples in both by the field
            that differs.

    Raises:
        NotFoundInStoreError, CorruptError: one of the two cannot be read.
    """
    before, after = (
        {sample.id: sample for sample in dataset.read_samples(uri)} for uri in (old, new)
    )
    both = sorted(before.keys() & after.keys())
    changed = {
        field.name: [
            i for i in both if getattr(before[i], field.name) != getattr(after[i], field.name)
        ]
        for field in fields(Sample)
    }
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": {name: ids for name, ids in changed.items() if ids},
    }


def diff_lines(found: Mapping[str, Any], most: int = 3) -> Iterator[str]:
    """What `diff` has found, for a terminal: how many samples each change is about, and the first
    of them."""
    rows = {"added": found["added"], "removed": found["removed"]}
    rows |= {f"changed {name}": ids for name, ids in found["changed"].items()}
    for name, ids in rows.items():
        yield f"{name}: {len(ids)}"
        yield from (f"    {sample}" for sample in ids[:most])
        if len(ids) > most:
            yield f"    and {len(ids) - most} more (all of them: --json)"
