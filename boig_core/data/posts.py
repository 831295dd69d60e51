"""Posts: the rows of an export, each accepted as a `Post` or rejected with a reason.

Columns: id, account, company (else the account stands in), timestamp, text, image or images,
keywords and licence where there are any, and the KPIs of the recipe; other names are mapped by
``data.columns``. Leaves out: where rows come from (see `sources`), how values are written (see
`values`, `conventions`, `texts` and `image_cells`), which posts of many are chosen (see
`selection`), and the images (see `fetch`).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from boig_core.config import Column, Data
from boig_core.data.cells.conventions import Conventions, iso
from boig_core.data.cells.image_cells import image_references, listed_texts, without_embedded
from boig_core.data.cells.texts import mask_links, mend, readable
from boig_core.data.cells.values import (
    as_name,
    as_text,
    is_missing,
    label,
    plain,
    too_large,
    value_at,
)
from boig_core.data.reading.sources import Row
from boig_core.data.rejects import CODES, VERDICT, Rejected
from boig_core.storage.period import Period
from boig_core.vocabulary import LINK, MAX_KEYWORDS, keywords

MAX_TEXT: Final = 65_536
"""Characters of a text: the longest post that a large network takes has 63,206 (Facebook). What is
longer is another kind of file, which a few thousand times would fill the memory of the tables."""
MAX_ROW: Final = 2**20
"""Characters of a row as JSON, whatever columns it has."""
_MAX_NAME: Final = 1000
"""Characters of an id, an account, a company and a licence."""
_WAITING_MEMORY: Final = 16 * 2**20
"""Bytes of rows that wait for the end of their file before they go to disk."""
_LONGEST_LIST: Final = 300
"""Characters of the names of a row's columns in a message."""


@dataclass(frozen=True)
class Post:
    """An accepted row.

    Attributes:
        id: unique in the dataset.
        account: user name whose posts share percentiles.
        company: brand behind the account.
        timestamp: ISO-8601 in UTC, to the second.
        text: white space joined, links masked if the recipe says so.
        keywords: the export's own, else the post's hashtags, else its distinct content words.
        licence: of the images, as the export states it; None: unknown.
        kpis: ``data.kpi``, then ``data.more_kpis``, of which a post may lack any.
        images: references as they stand in the export, each once.
        held_out: whether it belongs to the domain that is kept apart.
    """

    id: str
    account: str
    company: str
    timestamp: str
    text: str
    keywords: tuple[str, ...]
    licence: str | None
    kpis: tuple[float | None, ...]
    images: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True)
class Reject:
    """A row, or one image of it, that was left out.

    Attributes:
        file: of the export.
        line: from 1; 0 for a post that came from an earlier version of the dataset.
        post: its id, as far as it is known.
        image: the reference, when only an image was lost.
        code: one of `rejects.CODES`.
        reason: one sentence with the offending value.
        row: the row as JSON under our column names, so that it can be tried again; none when it
            could not be read.
    """

    file: str
    line: int
    post: str | None
    image: str | None
    code: str
    reason: str
    row: str | None


def accept(
    file: str,
    rows: Iterable[Row],
    data: Data,
    period: Period | None = None,
    conventions: Conventions | None = None,
) -> Iterator[tuple[int, Post, str] | Reject]:
    """Sort the rows of one file.

    Args:
        file: URI that rejects name.
        rows: as `sources.read_rows` gives them.
        data: the recipe's rules.
        period: rows of another time are another run's, and left out; one without a time that can
            be read stays, to be rejected with its reason. None: all.
        conventions: what the file means by values with two readings, new as a rule, so that a
            caller can ask it afterwards.

    Yields:
        Line, post and the row as JSON under our column names; or a reject. Rows that wait for what
        the others show come last.
    """
    conventions = conventions or Conventions(data)
    with tempfile.SpooledTemporaryFile(_WAITING_MEMORY, "w+", encoding="ascii") as waiting:
        for line, row in rows:
            # Known step by step, so that a reject says as much of its row as could be read.
            name: str | None = None
            try:
                if isinstance(row, Rejected):
                    raise row
                fields = without_embedded(rename(row, data.columns))
                name = _shown_id(fields)
                is_open = conventions.learn(fields)
                if not is_open and _is_outside(fields, period, conventions, data):
                    continue
                text = _as_json(fields)
            except Rejected as exc:
                yield Reject(file, line, name, None, exc.code, exc.reason, None)
            # No row is kept: what cannot be written as JSON cannot be tried again.
            except RecursionError:
                yield Reject(file, line, name, None, "bad_json", "is nested too deeply", None)
            else:
                if is_open:
                    waiting.write(json.dumps([line, text]) + "\n")
                else:
                    yield _verdict(file, line, fields, text, data, conventions)
        waiting.seek(0)
        for line, text in map(json.loads, waiting):
            fields = conventions.settle(json.loads(text))
            if not _is_outside(fields, period, conventions, data):
                # Kept as it was settled: the row is tried again without its file.
                yield _verdict(file, line, fields, _as_json(fields), data, conventions)


def accept_again(file: str, line: int, row: str, data: Data) -> tuple[int, Post, str] | Reject:
    """Try a rejected row again, under the recipe as it is now; ``row`` is JSON under our column
    names. What its file left open, the recipe alone can settle."""
    return _verdict(file, line, json.loads(row), row, data, Conventions(data))


def _verdict(
    file: str, line: int, fields: dict[str, Any], text: str, data: Data, conventions: Conventions
) -> tuple[int, Post, str] | Reject:
    try:
        return line, parse_post(fields, data, conventions), text
    except Rejected as exc:
        return Reject(file, line, _shown_id(fields), None, exc.code, exc.reason, text)


def _is_outside(
    fields: Mapping[str, Any], period: Period | None, conventions: Conventions, data: Data
) -> bool:
    if period is None:
        return False
    try:
        return conventions.moment(_require(fields, "timestamp", data), "timestamp") not in period
    except Rejected:
        return False


def _as_json(fields: Mapping[str, Any]) -> str:
    # Sorted, since equal rows must read equal: the text tells a row that was rejected before, and
    # decides between rows of one id. Parquet brings times, which JSON lacks.
    text = json.dumps(fields, default=plain, sort_keys=True)
    # Not kept: one that is too large today is so tomorrow.
    if len(text) > MAX_ROW:
        raise too_large("the row as JSON has", len(text), "characters", MAX_ROW)
    return text


def rename(fields: Any, columns: Mapping[Column, str]) -> dict[str, Any]:
    """A row under our column names, its own kept beside them: a KPI is named as the export names
    it.

    Args:
        fields: a row of the export.
        columns: export's name by ours; dots reach into nested objects, and what follows ``=`` is
            the value itself.

    Raises:
        Rejected: ``bad_json``, the row is no object.
    """
    if not isinstance(fields, Mapping):
        raise Rejected("bad_json", "is no JSON object")
    named = {
        str(ours): theirs[1:] if theirs.startswith("=") else value_at(fields, theirs)
        for ours, theirs in columns.items()
    }
    return {str(name): value for name, value in fields.items()} | named


def parse_post(fields: Mapping[str, Any], data: Data, conventions: Conventions) -> Post:
    """One row of an export, under our column names.

    Raises:
        Rejected: with the first rule that the row breaks.
    """
    # First what the recipe leaves out: such a row counts as a choice, not as a fault, whatever else
    # is wrong with it.
    for column, values in data.where.items():
        if (value := _label(value_at(fields, column))) not in values:
            raise Rejected("filtered_out", f"{column} = {value!r} is not among {', '.join(values)}")
    moment = conventions.moment(_require(fields, "timestamp", data), _called("timestamp", data))
    day = moment.date().isoformat()
    if (data.since and day < data.since) or (data.until and day >= data.until):
        raise Rejected(
            "out_of_period", f"{day} is not in [{data.since or '...'}, {data.until or '...'})"
        )
    _obey_verdict(fields.get(VERDICT))
    written = as_text(_require(fields, "text", data), _called("text", data))
    mended = written if len(written) > MAX_TEXT else mend(written)
    text, masked = _clean(mended, data)
    account = _name(fields, "account", data)
    licence = _label(fields.get("licence"))
    no_company = is_missing(fields.get("company"))
    post = Post(
        id=as_name(_require(fields, "id", data), _called("id", data), _MAX_NAME),
        account=account,
        company=account if no_company else _name(fields, "company", data),
        timestamp=iso(moment),
        text=text,
        # Of the masked text, whatever is kept: no word of an address is a keyword.
        keywords=_own_keywords(fields.get("keywords")) or keywords(masked),
        licence=licence and as_name(licence, "licence", _MAX_NAME),
        kpis=(
            _kpi(fields, data.kpi, data, conventions),
            *(_optional_kpi(fields, name, data, conventions) for name in data.more_kpis),
        ),
        images=image_references(fields),
        held_out=any(
            _label(value_at(fields, column)) in values for column, values in data.held_out.items()
        ),
    )
    conventions.mended += mended != written
    return post


def _clean(text: str, data: Data) -> tuple[str, str]:
    """A post's text as it is kept, and with its links masked.

    Raises:
        Rejected: it is shorter or longer than the recipe or anyone wants it.
    """
    if len(text) > MAX_TEXT:
        raise Rejected(
            "text_too_long",
            f"the text has {len(text)} characters, no post may have more than {MAX_TEXT}",
        )
    text = readable(text)
    masked = mask_links(text)
    # Before the length is measured: what counts is the text as it is kept.
    text = masked if data.mask_links else text
    if len(text) < data.min_text:
        raise Rejected(
            "text_too_short",
            f"the text has {len(text)} characters, at least {data.min_text} are asked for",
        )
    if data.max_text is not None and len(text) > data.max_text:
        raise Rejected(
            "text_too_long",
            f"the text has {len(text)} characters, at most {data.max_text} are asked for",
        )
    return text, masked


def _obey_verdict(verdict: Any) -> None:
    """Raises what the reader of a file has found out about a row."""
    if isinstance(verdict, list) and len(verdict) == 2 and verdict[0] in CODES:
        raise Rejected(verdict[0], str(verdict[1]))


def _own_keywords(value: Any) -> tuple[str, ...]:
    """Keywords of the export: a list, or one text with commas, semicolons or line breaks."""
    words = (
        " ".join(mask_links(readable(mend(_label(word) or ""))).replace(LINK, " ").split()).lower()
        for word in listed_texts(value)
    )
    return tuple(dict.fromkeys(word for word in words if word))[:MAX_KEYWORDS]


def _kpi(fields: Mapping[str, Any], name: str, data: Data, conventions: Conventions) -> float:
    """A column, or the rate of two: ``clicks/impressions``, unless the row has the rate itself."""
    upper, slash, lower = (name, "", "") if name in fields else name.partition("/")
    value = conventions.number(_require(fields, upper, data), upper)
    if not slash:
        return value
    whole = conventions.number(_require(fields, lower, data), lower)
    if whole == 0:
        raise Rejected("bad_kpi", f"{name} is no rate: {lower} is 0")
    rate = value / whole
    # Of two finite numbers, too, a rate may be too large for a float.
    if not math.isfinite(rate):
        raise Rejected("bad_kpi", f"{name} is no rate: {value:g} / {whole:g} is too large")
    return rate


def _optional_kpi(
    fields: Mapping[str, Any], name: str, data: Data, conventions: Conventions
) -> float | None:
    try:
        return _kpi(fields, name, data, conventions)
    except Rejected as exc:
        # A rate over 0 is as good as missing; a value that is no number is a fault of the row.
        if exc.code == "missing_field" or (exc.code == "bad_kpi" and exc.reason.endswith("is 0")):
            return None
        raise


def _require(fields: Mapping[str, Any], name: str, data: Data) -> Any:
    value = value_at(fields, name)
    if not is_missing(value):
        return value
    theirs = data.columns.get(cast(Column, name), name)
    if theirs in fields or value_at(fields, theirs) is not None or theirs.startswith("="):
        raise Rejected("missing_field", f"{_called(name, data)} is missing")
    own = {*data.columns, VERDICT}
    there = ", ".join(sorted(str(key)[:40] for key in fields if key not in own))
    there = there if len(there) <= _LONGEST_LIST else f"{there[:_LONGEST_LIST]}..."
    setting = "columns" if name in get_args(Column) else "kpi"
    raise Rejected(
        "missing_field",
        f"{_called(name, data)} is missing: there is no column {theirs!r}, but {there or 'none'} "
        f"(data.{setting} names another)",
    )


def _called(name: str, data: Data) -> str:
    """A column in a message: ours, and what the export calls it."""
    theirs = data.columns.get(cast(Column, name), name)
    return name if theirs in (name, f"={theirs[1:]}") else f"{name} (your column {theirs!r})"


def _name(fields: Mapping[str, Any], name: str, data: Data) -> str:
    return mend(as_name(_require(fields, name, data), _called(name, data), _MAX_NAME))


def _label(value: Any) -> str | None:
    text = label(value)
    return text and mend(text)


def _shown_id(fields: Mapping[str, Any]) -> str | None:
    """Id of a row that may be rejected for it."""
    shown = label(fields.get("id"))
    return shown and shown[:_MAX_NAME]
