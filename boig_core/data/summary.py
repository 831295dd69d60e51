"""What an ingestion says at its end, for a terminal: what became of the rows, and each warning.

Leaves out: counting (see `card`), what is worth a warning (see `glance`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from boig_core.data.glance import many
from boig_core.data.rejects import CHOICES
from boig_core.observability.tables import broken

_LABEL: Final = 14


def summary_lines(name: str, meta: Mapping[str, Any]) -> Iterator[str]:
    """Lines of at most 80 columns.

    Args:
        name: of the dataset.
        meta: numbers of a version, as its manifest holds them (see `card.card`).
    """
    yield from broken(
        f"dataset {name}: {many(meta['accepted'], 'post')} kept, of {many(meta['posts'], 'row')} read"
    )
    by_code = meta["rejected_by_reason"]
    # Choices of the recipe are told apart: nothing is wrong with such rows.
    faults = {code: count for code, count in by_code.items() if code not in CHOICES}
    choices = {code: count for code, count in by_code.items() if code in CHOICES}
    yield from labeled("rejected", counted(faults) or "nothing")
    if choices:
        yield from labeled("left out", f"{counted(choices)} (choices of the recipe)")
    yield from labeled(
        "images",
        f"{meta['images']:,} in {many(meta['samples'], 'sample')} of {many(meta['accounts'], 'account')}",
    )
    buckets = {bucket: sum(splits.values()) for bucket, splits in meta["buckets"].items()}
    yield from labeled("buckets", counted(buckets | {"none": meta["without_bucket"]}))
    yield from labeled("splits", counted(meta["splits"]))
    for warning in meta["warnings"]:
        yield from broken(warning, indent=" " * len("warning: "), first="warning: ")


def labeled(label: str, text: str) -> Iterable[str]:
    """A text behind its label, further lines below the text."""
    return broken(text, indent=" " * _LABEL, first=f"  {label}".ljust(_LABEL))


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name, the largest first, without those of nothing."""
    order = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in order if count)
