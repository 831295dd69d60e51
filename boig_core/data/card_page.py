"""``card.html``: what is in a version of a dataset, as a page that is understood at a glance;
everything inline, nothing is fetched.

Texts and names on it come from strangers: all of them are escaped, and isolated where they may run
from right to left. Leaves out: counting (see `card`).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

from PIL import Image

from boig_core.data import dataset
from boig_core.data.glance import many, month, month_name, percent
from boig_core.data.histogram import NO_BUCKET
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import BUCKETS

_SIDE: Final = 160
"""Longest side of a thumbnail, in pixels."""
_BARS: Final = 120
"""Most bars of a chart over time."""
_UNITS: Final = (("month", 1), ("year", 12), ("decade", 120), ("century", 1200))
_TICKS: Final = 4
"""About as many labels fit below a chart on a telephone."""
_SEEN: Final = re.compile(r"(<!-- seen -->).*?(<!-- /seen -->)", re.DOTALL)
"""Where the warnings of perception stand, which comes after the page was made."""
NAMES: Final = (*BUCKETS, NO_BUCKET)


def thumbnails(
    grid: Mapping[str, Sequence[Mapping[str, Any]]], root: str, entries: Iterable[FileEntry]
) -> dict[str, str]:
    """A small JPEG as a ``data:`` URI for each image of the grid, by SHA-256; reads the shards that
    the grid names and no other.

    Args:
        grid: samples by bucket, each with ``image`` and ``image_shard``.
        root: URI of ``datasets/NAME``.
        entries: of the version's shards.

    Raises:
        CorruptError: a shard differs from its entry.
    """
    wanted = {row["image"]: row["image_shard"] for rows in grid.values() for row in rows}
    thumbnails_by_image = {}
    for entry in entries:
        if dataset.shard_name(entry) in wanted.values():
            # Paths of entries are relative to a version's folder, whichever it is.
            for stored in dataset.shard_images(store.join(root, "version"), entry):
                if stored.sha256 in wanted:
                    thumbnails_by_image[stored.sha256] = _thumbnail(stored.data)
    return thumbnails_by_image


def _thumbnail(data: bytes) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a large JPEG is decoded small
        small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(card: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """The page.

    Args:
        card: content of ``card.json``.
        images: ``data:`` URI of each image of the grid by SHA-256.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # A name that a template misspells raises, instead of leaving a gap on the page.
    environment = Environment(
        loader=PackageLoader("boig_core.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "many": many}
    return environment.get_template("card.html.j2").render(
        card=card,
        images=images,
        names=NAMES,
        time=over_time(card["by_month"]),
        kpis=[
            (kpi, kpi["histogram"] and histogram_columns(kpi["histogram"])) for kpi in card["kpis"]
        ],
        lengths=histogram_columns(card["text_length"]),
        splits=split_totals(card),
    )


def with_warnings(page: str, warnings: Sequence[str]) -> str:
    """A page with these warnings of perception, in place of those that it has; the page as it is
    where it has no room for them."""
    items = "".join(f"<li><bdi>{escape(line)}</bdi></li>" for line in warnings)
    block = f'<ul class="warnings">{items}</ul>' if warnings else ""
    return _SEEN.sub(lambda place: f"{place[1]}{block}{place[2]}", page, count=1)


def columns(
    counts: Mapping[str, Sequence[int]], titles: Sequence[str], ticks: Iterable[tuple[float, str]]
) -> dict[str, Any]:
    """A chart of stacked columns.

    Args:
        counts: by bucket, one per column.
        titles: what each column is.
        ticks: place (a share of the width) and label of each mark of the axis.

    Returns:
        ``most``, the count of the highest column; ``bars``: title, total and heights in percent by
        bucket; ``ticks``.
    """
    totals = [sum(counts_of_bin) for counts_of_bin in zip(*counts.values(), strict=True)]
    most = max(totals)
    bars = [
        {
            "title": title,
            "total": total,
            "parts": [
                (name, round(100 * counts[name][at] / most, 2))
                for name in counts
                if counts[name][at]
            ],
        }
        for at, (title, total) in enumerate(zip(titles, totals, strict=True))
    ]
    return {
        "most": most,
        "bars": bars,
        "ticks": [(round(100 * place, 2), label) for place, label in ticks],
    }


def histogram_columns(found: Mapping[str, Any]) -> dict[str, Any]:
    """The chart of a histogram."""
    edges, bins = found["edges"], len(found["edges"]) - 1
    # Rounded up, which gives one label more than `_TICKS` at most.
    every = max(1, -(-bins // _TICKS))
    titles = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
    return columns(
        found["counts"],
        titles,
        [(at / bins, _short(edges[at])) for at in range(0, bins + 1, every)],
    )


def over_time(months: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The chart of every month from the first to the last, or of every year, decade or century
    where months are too many."""
    row_of_month = {month(row["month"]): row for row in months}
    first, last = min(row_of_month), max(row_of_month)
    unit, step = next(
        (unit, step)
        for unit, step in _UNITS
        if last // step - first // step < _BARS or step == _UNITS[-1][1]
    )
    periods = range(first // step, last // step + 1)
    counts = {name: [0] * len(periods) for name in NAMES}
    for at, row in row_of_month.items():
        for name in NAMES:
            counts[name][at // step - periods[0]] += row[name]
    titles = [month_name(at) if step == 1 else str(at * step // 12) for at in periods]
    every = max(1, -(-len(titles) // _TICKS))
    marks = [(at / len(titles), titles[at]) for at in range(0, len(titles), every)]
    return {"unit": unit, **columns(counts, titles, marks)}


def split_totals(card: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Samples of each split that has any, by bucket and without one."""
    named = {
        split: {bucket: counts[split] for bucket, counts in card["buckets"].items()}
        for split in card["buckets"]["high"]
    }
    return {
        split: {**counts, NO_BUCKET: card["splits"][split] - sum(counts.values())}
        for split, counts in named.items()
        if split in card["splits"]
    }


def number(value: float | None) -> str:
    """A number as a person writes it; a dash for none."""
    if value is None:
        return "–"
    # Up to there a float holds every whole number, and all digits mean something.
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def _short(value: float) -> str:
    """A number for an axis."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if 10 * 10**power <= abs(value) < 1e15 or (power > 3 and 10**power <= abs(value) < 1e15):
            return f"{value / 10**power:,.4g}{letter}"
    return number(value)
