"""Posts: an export of a brand's history read row by row, each row accepted or rejected with a reason.

Columns: id, account, company (else the account stands in), timestamp (ISO-8601), text, image or images, and the KPI of the recipe; other
names are mapped by ``data.columns``. JSONL is the main form, of rows or of X API pages; a ``.json`` file is a list of them, or one page;
CSV and Parquet are read through pyarrow; all but Parquet may be gzipped. Leaves out: fetching the images (see `fetch`) and the buckets
(see `kpi`).
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from boig_core.config import Column, Data
from boig_core.data import x_api
from boig_core.data.rejects import Rejected
from boig_core.data.split import unit
from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.storage import store
from boig_core.vocabulary import LINK, keywords

_TEXTS: Final = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES: Final = (*_TEXTS, ".parquet", *(f"{suffix}.gz" for suffix in _TEXTS))
_LINKS: Final = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Post:
    """An accepted row.

    Attributes:
        line: its place in the file, from 1.
        id: unique in the export.
        account: user name whose posts share percentiles.
        company: brand behind the account.
        timestamp: ISO-8601 in UTC, to the second.
        text: with links masked and white space joined.
        keywords: the post's hashtags, else its distinct content words.
        kpi: the KPI's value.
        images: references as they stand in the export, each once.
    """

    line: int
    id: str
    account: str
    company: str
    timestamp: str
    text: str
    keywords: tuple[str, ...]
    kpi: float
    images: tuple[str, ...]


@dataclass(frozen=True)
class Reject:
    """A row, or one image of it, that was left out: ``line`` from 1, and the post's id and image reference as far as they are known."""

    line: int
    post: str | None
    image: str | None
    code: str
    reason: str


def find_posts(uri: str) -> str:
    """URI of the posts file: the URI itself, or the ``posts.*`` file of a folder.

    Raises:
        InputError: there is none, or its suffix is not known.
    """
    if uri.endswith(SUFFIXES):
        if not store.exists(uri):
            raise InputError(uri, "does not exist", "give the posts file of an export, or its folder")
        return uri
    for suffix in SUFFIXES:
        if store.exists(store.join(uri, f"posts{suffix}")):
            return store.join(uri, f"posts{suffix}")
    if store.exists(uri):
        raise InputError(uri, f"is no {', '.join(SUFFIXES)} file", "export the posts as JSON lines")
    raise InputError(uri, f"holds no posts{'|'.join(SUFFIXES)}", "give the posts file of an export, or its folder")


def read_posts(uri: str, data: Data, seed: int) -> tuple[list[Post], list[Reject]]:
    """Read an export and sort its rows into posts and rejects.

    Args:
        uri: of the posts file, in the store or in a local folder.
        data: the recipe's rules.
        seed: decides which posts stay of an account that has more than ``data.max_posts``.

    Returns:
        Posts in the order of the file, and the rejects.

    Raises:
        InputError: the file cannot be read as what its suffix says.
        NotFoundInStoreError, StorePermissionError, StoreUnavailableError.
    """
    posts: dict[str, Post] = {}
    rejects: list[Reject] = []
    for line, row in _rows(uri):
        name: str | None = None
        try:
            if isinstance(row, Rejected):
                raise row
            fields = rename(row, data.columns)
            name = _label(fields.get("id"))
            post = parse_post(line, fields, data)
            if post.id in posts:
                raise Rejected("duplicate_id", f"id {post.id} stands in line {posts[post.id].line} already")
            posts[post.id] = post
        except Rejected as exc:
            rejects.append(Reject(line, name, None, exc.code, exc.reason))
    kept, dropped = _choose(posts.values(), data, seed)
    return kept, rejects + dropped


def rename(fields: Any, columns: Mapping[Column, str]) -> Mapping[str, Any]:
    """A row under our column names, its own kept beside them: a KPI is named as the export names it.

    Args:
        fields: a row of the export.
        columns: export's name by ours; dots reach into nested objects.

    Raises:
        Rejected: ``bad_json``, the row is no object.
    """
    if not isinstance(fields, Mapping):
        raise Rejected("bad_json", "is no JSON object")
    return {**fields, **{ours: _reach(fields, theirs) for ours, theirs in columns.items()}}


def parse_post(line: int, fields: Mapping[str, Any], data: Data) -> Post:
    """One row of an export, under our column names.

    Raises:
        Rejected: with the first rule that the row breaks.
    """
    moment = _moment(_require(fields, "timestamp"))
    day = moment.date().isoformat()
    if (data.since and day < data.since) or (data.until and day >= data.until):
        raise Rejected("out_of_period", f"{day} is not in [{data.since or '...'}, {data.until or '...'})")
    text = " ".join(_LINKS.sub(LINK, _text(fields, "text")).split())
    if len(text) < data.min_text:
        raise Rejected("text_too_short", f"the text has {len(text)} characters, at least {data.min_text} are asked for")
    account = _text(fields, "account")
    return Post(
        line=line,
        id=_text(fields, "id"),
        account=account,
        company=str(fields.get("company") or account),
        timestamp=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        text=text,
        keywords=keywords(text),
        kpi=_kpi(fields, data.kpi),
        images=_images(fields),
    )


def _choose(posts: Iterable[Post], data: Data, seed: int) -> tuple[list[Post], list[Reject]]:
    """Leave out small accounts, and sample from large ones by a hash of the post's id."""
    posts = list(posts)
    sizes = Counter(post.account for post in posts)
    chosen: dict[str, set[str]] = {}
    for account, size in sizes.items():
        if size > data.max_posts:
            ids = [post.id for post in posts if post.account == account]
            chosen[account] = set(sorted(ids, key=lambda post: (unit(seed, "sample", post), post))[: data.max_posts])
    kept, rejects = [], []
    for post in posts:
        if sizes[post.account] < data.min_posts:
            reason = f"{post.account} has {sizes[post.account]} posts, at least {data.min_posts} are asked for"
            rejects.append(Reject(post.line, post.id, None, "account_too_small", reason))
        elif post.id not in chosen.get(post.account, {post.id}):
            rejects.append(
                Reject(post.line, post.id, None, "account_sampled", f"{data.max_posts} other posts of {post.account} were drawn")
            )
        else:
            kept.append(post)
    return kept, rejects


def _rows(uri: str) -> Iterator[tuple[int, Any]]:
    """Rows with their line or place from 1, or why a line holds none; empty lines are passed over."""
    try:
        content = store.read_bytes(uri)
    except NotFoundInStoreError as exc:
        raise InputError(uri, "does not exist", "give the posts file of an export, or its folder") from exc
    if uri.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as exc:
            raise InputError(uri, f"cannot be unpacked ({exc})", "export the posts again, or without gzip") from exc
    if uri.endswith((".json", ".json.gz")):
        try:
            whole = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise InputError(uri, f"is not JSON ({exc})", "export the posts again, or as JSON lines") from exc
        items = whole if isinstance(whole, list) else [whole]
        yield from ((place, one) for place, item in enumerate(items, start=1) for one in _flatten(item))
        return
    if not uri.endswith((".csv", ".csv.gz", ".parquet")):
        for line, row in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if row.strip():
                yield from ((line, one) for one in _parse_json(row))
        return
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = parquet.read_table(io.BytesIO(content)) if uri.endswith(".parquet") else csv.read_csv(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as exc:
        raise InputError(uri, f"cannot be read ({exc})", "export the posts again, or as JSON lines") from exc
    yield from enumerate(table.to_pylist(), start=1)


def _parse_json(row: bytes) -> list[Any]:
    """The rows that a line holds, or why it holds none."""
    try:
        return _flatten(json.loads(row.decode("utf-8")))
    except UnicodeDecodeError as exc:
        return [Rejected("encoding", f"byte {exc.start} is not UTF-8")]
    except (ValueError, RecursionError) as exc:
        return [Rejected("bad_json", f"is not JSON ({exc})")]


def _flatten(item: Any) -> list[Any]:
    """A row as it is, or the rows of an X API page."""
    return x_api.rows_of(item) if isinstance(item, dict) and x_api.is_page(item) else [item]


def _reach(fields: Mapping[str, Any], path: str) -> Any:
    """Value of a column, or of a nested one by its dotted path; a column whose own name has dots comes first."""
    value: Any = fields
    if path in fields:
        return fields[path]
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _kpi(fields: Mapping[str, Any], name: str) -> float:
    """A column, or the rate of two: ``clicks/impressions``."""
    upper, slash, lower = name.partition("/")
    value = _number(_require(fields, upper), upper)
    if not slash:
        return value
    whole = _number(_require(fields, lower), lower)
    if whole == 0:
        raise Rejected("bad_kpi", f"{name} is no rate: {lower} is 0")
    return value / whole


def _require(fields: Mapping[str, Any], name: str) -> Any:
    value = _reach(fields, name)
    if value is None or value == "":
        raise Rejected("missing_field", f"{name} is missing")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = _require(fields, name)
    if isinstance(value, (Mapping, list, bool)):
        raise Rejected("missing_field", f"{name} = {str(value)[:40]!r} is no text")
    return str(value)


def _label(value: Any) -> str | None:
    return None if value is None else str(value)


def _moment(value: Any) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise Rejected("bad_timestamp", f"timestamp {str(value)[:40]!r} is not ISO-8601") from exc


def _number(value: Any, name: str) -> float:
    """A KPI; digits in a string count, thousands separators do not, because 1,234 means different numbers in different places."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise Rejected("bad_kpi", f"{name} = {str(value)[:40]!r} is not a number of at least 0")
    return number


def _images(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("images") or fields.get("image")
    references = [value] if isinstance(value, str) else value
    if not references:
        raise Rejected("missing_field", "image is missing")
    if not isinstance(references, list) or not all(isinstance(reference, str) and reference for reference in references):
        raise Rejected("image_missing", f"images = {str(value)[:40]!r} is no list of references")
    return tuple(dict.fromkeys(references))
