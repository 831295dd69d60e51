"""Posts: the rows of an export, each accepted as a `Post` or rejected with a reason.

Columns: id, account, company (else the account stands in), timestamp (ISO-8601), text, image or
images, keywords and licence where there are any, and the KPIs of the recipe; other names are mapped
by ``data.columns``. Leaves out: where rows come from (see `sources`), which posts of many are
chosen (see `selection`), and the images (see `fetch`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from boig_core.config import Column, Data
from boig_core.data.rejects import CODES, VERDICT, Rejected
from boig_core.data.sources import Row
from boig_core.storage.period import Period
from boig_core.vocabulary import LINK, MAX_KEYWORDS, keywords

MAX_TEXT: Final = 65_536
"""Characters of a text: the longest post that a large network takes has 63,206 (Facebook). What is
longer is another kind of file, which a few thousand times would fill the memory of the tables."""
MAX_IMAGES: Final = 200
"""Images of a post: ten times what the longest carousel holds (Instagram's, 20)."""
MAX_ROW: Final = 2**20
"""Characters of a row as JSON, whatever columns it has."""
_MAX_NAME: Final = 1000
"""Characters of an id, an account, a company and a licence."""
_MAX_REFERENCE: Final = 4096
"""Characters of an image reference: no path may be longer, no key of S3, and no common URL."""
_LINKS: Final = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


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


def accept(file: str, rows: Iterable[Row], data: Data) -> Iterator[tuple[int, Post, str] | Reject]:
    """Sort the rows of one file.

    Args:
        file: URI that rejects name.
        rows: as `sources.read_rows` gives them.
        data: the recipe's rules.

    Yields:
        Line, post and the row as JSON under our column names; or a reject.
    """
    for line, row in rows:
        # Known step by step, so that a reject says as much of its row as could be read.
        name: str | None = None
        text: str | None = None
        try:
            if isinstance(row, Rejected):
                raise row
            fields = rename(row, data.columns)
            name = _shown_id(fields)
            # Sorted, since equal rows must read equal: the text tells a row that was rejected
            # before, and decides between rows of one id. Parquet brings times, which JSON lacks.
            whole = json.dumps(fields, default=str, sort_keys=True)
            # Not kept: one that is too large today is so tomorrow.
            if len(whole) > MAX_ROW:
                raise _too_large("the row as JSON has", len(whole), "characters", MAX_ROW)
            text = whole
            yield line, parse_post(fields, data), text
        except Rejected as exc:
            yield Reject(file, line, name, None, exc.code, exc.reason, text)
        # No row is kept: what cannot be written as JSON cannot be tried again.
        except RecursionError:
            yield Reject(file, line, name, None, "bad_json", "is nested too deeply", None)


def within(rows: Iterable[Row], period: Period, data: Data) -> Iterator[Row]:
    """The rows of a period; the others are another run's. One without a time that can be read
    stays, to be rejected with its reason."""
    for line, row in rows:
        try:
            outside = (
                isinstance(row, Mapping)
                and _moment(_require(rename(row, data.columns), "timestamp")) not in period
            )
        except (Rejected, RecursionError):
            outside = False
        if not outside:
            yield line, row


def accept_again(file: str, line: int, row: str, data: Data) -> tuple[int, Post, str] | Reject:
    """Try a rejected row again, under the recipe as it is now; ``row`` is JSON under our column
    names."""
    fields = json.loads(row)
    try:
        return line, parse_post(fields, data), row
    except Rejected as exc:
        return Reject(file, line, _shown_id(fields), None, exc.code, exc.reason, row)


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
        str(ours): theirs[1:] if theirs.startswith("=") else _reach(fields, theirs)
        for ours, theirs in columns.items()
    }
    return {str(name): value for name, value in fields.items()} | named


def parse_post(fields: Mapping[str, Any], data: Data) -> Post:
    """One row of an export, under our column names.

    Raises:
        Rejected: with the first rule that the row breaks.
    """
    # First what the recipe leaves out: such a row counts as a choice, not as a fault, whatever else
    # is wrong with it.
    for column, values in data.where.items():
        if (value := _label(_reach(fields, column))) not in values:
            raise Rejected("filtered_out", f"{column} = {value!r} is not among {', '.join(values)}")
    moment = _moment(_require(fields, "timestamp"))
    day = moment.date().isoformat()
    if (data.since and day < data.since) or (data.until and day >= data.until):
        raise Rejected(
            "out_of_period", f"{day} is not in [{data.since or '...'}, {data.until or '...'})"
        )
    _obey_verdict(fields.get(VERDICT))
    text = _text(fields, "text")
    if len(text) > MAX_TEXT:
        raise Rejected(
            "text_too_long",
            f"the text has {len(text)} characters, no post may have more than {MAX_TEXT}",
        )
    # Before the length is measured: what counts is the text as it is kept.
    text = " ".join((_LINKS.sub(LINK, text) if data.mask_links else text).split())
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
    account = _name(_text(fields, "account"), "account")
    licence = _label(fields.get("licence") or None)
    return Post(
        id=_name(_text(fields, "id"), "id"),
        account=account,
        company=_name(_utf8(str(fields.get("company") or account), "company"), "company"),
        timestamp=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        text=text,
        keywords=_own_keywords(fields.get("keywords")) or keywords(text),
        licence=licence and _name(licence, "licence"),
        kpis=(_kpi(fields, data.kpi), *(_optional_kpi(fields, name) for name in data.more_kpis)),
        images=_images(fields),
        held_out=any(
            _label(_reach(fields, column)) in values for column, values in data.held_out.items()
        ),
    )


def _obey_verdict(verdict: Any) -> None:
    """Raises what the reader of a file has found out about a row."""
    if isinstance(verdict, list) and len(verdict) == 2 and verdict[0] in CODES:
        raise Rejected(verdict[0], str(verdict[1]))


def _own_keywords(value: Any) -> tuple[str, ...]:
    """Keywords of the export: a list, or one text with commas or semicolons."""
    words = (
        re.split(r"[,;]", value)
        if isinstance(value, str)
        else value
        if isinstance(value, list)
        else []
    )
    keywords = (
        " ".join(str(_label(word)).split()).lower() for word in words if isinstance(word, str)
    )
    return tuple(dict.fromkeys(word for word in keywords if word))[:MAX_KEYWORDS]


def _reach(fields: Mapping[str, Any], path: str) -> Any:
    """Value of a column, or of a nested one by its dotted path; a column whose own name has dots
    comes first."""
    value: Any = fields
    # Some exports have flat columns that are called `user.name`.
    if path in fields:
        return fields[path]
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _kpi(fields: Mapping[str, Any], name: str) -> float:
    """A column, or the rate of two: ``clicks/impressions``, unless the row has the rate itself."""
    upper, slash, lower = (name, "", "") if name in fields else name.partition("/")
    value = _number(_require(fields, upper), upper)
    if not slash:
        return value
    whole = _number(_require(fields, lower), lower)
    if whole == 0:
        raise Rejected("bad_kpi", f"{name} is no rate: {lower} is 0")
    rate = value / whole
    # Of two finite numbers, too, a rate may be too large for a float.
    if not math.isfinite(rate):
        raise Rejected("bad_kpi", f"{name} is no rate: {value:g} / {whole:g} is too large")
    return rate


def _optional_kpi(fields: Mapping[str, Any], name: str) -> float | None:
    try:
        return _kpi(fields, name)
    except Rejected as exc:
        # A rate over 0 is as good as missing; a value that is no number is a fault of the row.
        if exc.code == "missing_field" or (exc.code == "bad_kpi" and exc.reason.endswith("is 0")):
            return None
        raise


def _require(fields: Mapping[str, Any], name: str) -> Any:
    value = _reach(fields, name)
    if value is None or value == "":
        raise Rejected("missing_field", f"{name} is missing")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = _require(fields, name)
    if isinstance(value, (Mapping, list, bool)):
        raise Rejected("missing_field", f"{name} = {str(value)[:40]!r} is no text")
    return _utf8(str(value), name)


def _name(value: str, name: str) -> str:
    if len(value) > _MAX_NAME:
        raise _too_large(f"{name} has", len(value), "characters", _MAX_NAME)
    return value


def _too_large(what: str, count: int, unit: str, most: int) -> Rejected:
    # Without the value: a reject must not repeat megabytes.
    return Rejected("row_too_large", f"{what} {count} {unit}, no post may have more than {most}")


def _utf8(value: str, name: str) -> str:
    try:
        value.encode()
    except (
        UnicodeEncodeError
    ) as exc:  # half of a surrogate pair, which JSON can spell and no file can hold
        raise Rejected("encoding", f"{name} holds half a character at {exc.start}") from exc
    return value


def _label(value: Any) -> str | None:
    # It may stand in a reject, which has to be written whatever characters the row held.
    return None if value is None else str(value).encode(errors="replace").decode()


def _shown_id(fields: Mapping[str, Any]) -> str | None:
    """Id of a row that may be rejected for it."""
    label = _label(fields.get("id"))
    return label and label[:_MAX_NAME]


def _moment(value: Any) -> datetime:
    try:
        moment = (
            value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        )
        # `astimezone` would read a time without a zone in that of the machine.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise Rejected("bad_timestamp", f"timestamp {str(value)[:40]!r} is not ISO-8601") from exc


def _number(value: Any, name: str) -> float:
    """A KPI; digits in a string count, thousands separators do not, because 1,234 means different
    numbers in different places."""
    try:
        # `float` would take true for 1, and 1_000 for 1000.
        odd = isinstance(value, bool) or "_" in str(value)
        number = math.nan if odd else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise Rejected("bad_kpi", f"{name} = {str(value)[:40]!r} is not a number of at least 0")
    return number


def _images(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("images") or fields.get("image")
    references = [value] if isinstance(value, str) else value
    if not references:
        raise Rejected("missing_field", "image is missing")
    if not isinstance(references, list) or not all(
        isinstance(reference, str) and reference for reference in references
    ):
        raise Rejected("image_missing", f"images = {str(value)[:40]!r} is no list of references")
    if len(references) > MAX_IMAGES:
        raise _too_large("the row names", len(references), "images", MAX_IMAGES)
    if (longest := max(map(len, references))) > _MAX_REFERENCE:
        raise _too_large("a name of an image has", longest, "characters", _MAX_REFERENCE)
    return tuple(dict.fromkeys(_utf8(reference, "image") for reference in references))
