"""What a data card says at a glance: one sentence with the essentials, and a sentence for each
thing that looks wrong.

Leaves out: counting (see `card`) and the page (see `card_page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from itertools import pairwise
from typing import Any

from boig_core.data.rejects import CHOICES


def glance(card: Mapping[str, Any]) -> dict[str, Any]:
    """The essentials of a card's numbers: ``headline``, one sentence, and ``warnings``, a sentence
    for each thing that looks wrong."""
    high = sum(card["buckets"]["high"].values())
    rows, faults = (
        card["rows"],
        [row["code"] for row in card["rejects"] if row["code"] not in CHOICES],
    )
    text = (
        f"{many(card['samples'], 'sample')} of {many(card['accounts'], 'account')}, {high:,} high; "
    )
    if rows["rejected"]:
        text += f"{percent(rows['rejected'] / rows['read'])} of the rows were rejected, most often {faults[0]}"
    else:
        text += f"no row was rejected{', but images of some' if faults else ''}"
    if rows["left_out"]:
        text += f"; {percent(rows['left_out'] / rows['read'])} were left out by the recipe's rules"
    return {"headline": text, "warnings": warnings(card)}


def warnings(card: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that looks wrong, with its number and, where there is one, the
    field of the recipe that changes it."""
    return [*outlook_warnings(card), *_other_warnings(card)]


def outlook_warnings(card: Mapping[str, Any]) -> list[str]:
    """Of `warnings`, those that buckets, splits and ranks alone tell: ``buckets``, ``splits``,
    ``without_bucket``, ``samples``, ``kpi`` and ``ranking`` of a card."""
    return [*_bucket_warnings(card), *_ranking_warnings(card)]


def _bucket_warnings(card: Mapping[str, Any]) -> Iterable[str]:
    splits = {
        split: {bucket: counts[split] for bucket, counts in card["buckets"].items()}
        for split in card["buckets"]["high"]
    }
    for split, counts in splits.items():
        # Only what is kept apart may be missing as a whole.
        if split in ("held_out", "judge") and not card["splits"].get(split):
            continue
        total = sum(counts.values())
        for bucket, count in counts.items():
            if not count:
                yield f"Split {split} has no {bucket} sample."
            elif count < 0.01 * total:
                yield f"Only {percent(count / total)} of split {split} is {bucket} ({count:,} of {total:,})."


def _ranking_warnings(card: Mapping[str, Any]) -> Iterable[str]:
    ranking, bare = card["ranking"], card["without_bucket"]
    if bare:
        yield (
            f"{many(bare, 'sample')} of {card['samples']:,} ({percent(bare / card['samples'])}) "
            f"{'is' if bare == 1 else 'are'} without a bucket and out of every training, since "
            f"{card['kpi']} does not exceed data.floors."
        )
    if unread := ranking["unread"]["rows"]:
        yield (
            f"The KPI of {many(unread, 'row')} could not be read, the first: "
            f"{ranking['unread']['example']}; data.numbers says how numbers are written."
        )
    if (flat := ranking["one_value"])["accounts"]:
        yield (
            f"{many(flat['accounts'], 'account')} with {many(flat['posts'], 'post')}, the first "
            f"{flat['first']}, {'has' if flat['accounts'] == 1 else 'have'} one value of {card['kpi']} "
            "for all posts, so ranks say nothing there; data.min_posts leaves small accounts out, "
            "data.kpi takes another number."
        )
    tied = ranking["tied"]
    if tied["posts"] > 0.05 * ranking["posts"]:
        top = tied["largest"]
        yield (
            f"Equal values of {card['kpi']} put {many(tied['posts'], 'post')} of {ranking['posts']:,} "
            f"into another bucket than their percentile would: {top['posts']:,} posts of "
            f"{top['account']} have {top['value']:g}; data.kpi or data.percentiles change that."
        )
    lost = ranking["lost"]
    # Twice the share of high posts among the others is more than chance.
    if lost["popular"] >= 2 and lost["popular"] > 2 * ranking["high_share"] * lost["rows"]:
        yield (
            f"Popular posts are lost: {lost['popular']:,} of the {many(lost['rows'], 'rejected row')} "
            f"whose {card['kpi']} can be told have as much as the high posts; boig dataset rejects "
            "lists them, and boig ingest --preview says what saves them."
        )


def _other_warnings(card: Mapping[str, Any]) -> Iterable[str]:
    largest, rows, alike = card["by_account"][0], card["rows"], card["near_duplicates"]
    if card["accounts"] > 1 and largest["posts"] > 0.5 * card["accepted"]:
        yield f"Account {largest['account']} makes {percent(largest['posts'] / card['accepted'])} of all posts."
    if rows["rejected"] > 0.2 * rows["read"]:
        yield f"{percent(rows['rejected'] / rows['read'])} of the rows were rejected ({rows['rejected']:,} of {rows['read']:,})."
    months = [month(row["month"]) for row in card["by_month"]]
    if empty := months[-1] - months[0] + 1 - len(months):
        after = next(
            month_before
            for month_before, following in pairwise(months)
            if following > month_before + 1
        )
        yield f"{many(empty, 'month')} without posts, the first {month_name(after + 1)}."
    if alike["samples"] > 0.1 * card["samples"]:
        yield (
            f"{percent(alike['samples'] / card['samples'])} of the samples look nearly like another: "
            f"{many(alike['groups'], 'group')}, the largest of {alike['largest']:,}."
        )
    repeated = card["repeated_images"]
    if repeated["posts"] > 0.001 * card["accepted"]:
        yield (
            f"{many(repeated['posts'], 'post')} share {many(repeated['images'], 'image')} that came from many addresses each, "
            f"the most frequent in {many(repeated['largest'], 'post')} (post {repeated['example']} is one): "
            "maybe what a host sends for pictures that are gone."
        )


def month(text: str) -> int:
    """Number of the month of ``YYYY-MM``."""
    return 12 * int(text[:4]) + int(text[5:7]) - 1


def month_name(number: int) -> str:
    """What `month` reads."""
    return date(number // 12, number % 12 + 1, 1).isoformat()[:7]


def many(count: int, what: str) -> str:
    """A count of things."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share without false precision: what is not nothing never reads as 0, and what is not all
    never as 100."""
    if 0 < share < 0.01:
        return "under 1 %"
    return f"{min(share, 0.99) if share < 1 else 1:.0%}".replace("%", " %")
