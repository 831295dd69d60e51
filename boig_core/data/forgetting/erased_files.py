"""The files of a store that go with what was withdrawn, in an order in which a break loses no track
of them.

Only boig's own files go; a person's files beside them stay. Leaves out: what is withdrawn, and when
(see `erasure`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from boig_core.data import tables
from boig_core.data.card import CARD
from boig_core.data.forgetting.holdings import Holdings
from boig_core.storage import control, store, trash
from boig_core.storage.check import side_by_side
from boig_core.storage.manifest import MANIFEST, PAGE

REPEATING: Final = ("evaluations/", "reports/")
"""Outputs that repeat texts, ids and accounts of posts."""
REPORT: Final = "report.json"
_DECISION: Final = re.compile(r"runs/boig_promote/[^/]+/decision\.json")
_SIDE_FILE: Final = re.compile(r"(runs/.+/attempt-\d+)/(?:samples|checkpoints)/")
_OWN_TABLES: Final = (tables.SOURCES, tables.REJECTS, CARD, PAGE, tables.LABELS)
"""A version's own files, in the order in which they go."""
_OF_DATASET: Final = re.compile(
    r"datasets/(?P<name>[^/]+)/(?:(?P<shared>blobs/(?:posts|images)-[0-9a-f]{16}\.parquet"
    r"|staging/[0-9a-f]{32}\.parquet)|(?P<version>(?!blobs/|staging/)[^/]+)/(?:"
    + "|".join(map(re.escape, (*_OWN_TABLES, MANIFEST)))
    + "))"
)
"""Files of datasets that are boig's; a person's file beside them stays."""


def erase(seen: Holdings, say: Callable[[str], object]) -> int:
    """Remove files; those last by which the others are found. Returns how many."""
    for path in seen.seen:
        _erase_seen(seen, path)
    first = [*_loose(seen), *side_files(seen), *_repeating(seen)]
    say(f"{len(first):,} files are removed")
    list(side_by_side(lambda path: store.delete_file(seen.contents.uri(path)), first))
    for name in seen.names:
        # Whoever wrote there was fenced; no listing shows what a writer has left half.
        store.remove_unfinished(seen.contents.uri(f"datasets/{name}"))
    last = [
        path
        for folder in seen.withdrawn_versions()
        for name in _OWN_TABLES
        if (path := f"{folder}/{name}") in seen.contents.sizes
    ]
    for path in last:
        store.delete_file(seen.contents.uri(path))
    return len(first) + len(last)


def _erase_seen(seen: Holdings, path: str) -> None:
    """Make a file of perception anew without the images that go."""
    import pyarrow as pa

    table = seen.read(path)
    rest = [image not in seen.images for image in table["sha256"].to_pylist()]
    folder, _, name = seen.contents.uri(path).rpartition("/")
    if any(rest):
        kept = table.filter(pa.array(rest, pa.bool_())).combine_chunks()
        tables.write_named(kept, name.partition("-")[0], folder)
    store.delete_file(seen.contents.uri(path))


def _loose(seen: Holdings) -> Iterator[str]:
    """Shards that no version names which stays, indexes of what was fetched, and folders of
    versions that were never committed. Nothing counts on them: whoever did was fenced."""
    staying = seen.named_by(seen.versions)
    for path in seen.contents.sizes:
        match = _OF_DATASET.fullmatch(path)
        if match is None or match["name"] not in seen.names:
            continue
        if match["shared"]:
            if path not in staying:
                yield path
        elif f"datasets/{match['name']}/{match['version']}" not in seen.outputs:
            yield path


def side_files(seen: Holdings) -> list[str]:
    """Samples and checkpoints of trainings on versions that go, and what lies in the trash: models
    apart, which hold no text of a post."""
    readers = seen.readers({*seen.holders, *seen.withdrawn_versions()})
    attempts = ((path, _SIDE_FILE.match(path)) for path in seen.contents.sizes)
    paths = [path for path, attempt in attempts if attempt and attempt[1] in readers]
    entries = filter(None, map(trash.trashed, seen.contents.files))
    return paths + [entry.file.path for entry in entries if not entry.was.startswith("models/")]


def _repeating(seen: Holdings) -> Iterator[str]:
    """Files of withdrawn evaluations and reports; the numbers that a decision was signed with
    stay."""
    folders = [f for f in seen.outputs if f.startswith(REPEATING) and seen.is_withdrawn(f)]
    signed = {report for report, _ in decided(seen, folders)}
    for folder in folders:
        for path, _ in seen.contents.entries(folder):
            is_signed = folder in signed and path == f"{folder}/{REPORT}"
            if path in seen.contents.sizes and not is_signed:
                yield path


def decided(seen: Holdings, folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Reports that a decision on a promotion stands on, each with its run: an audit needs their
    numbers."""
    reports = set(folders)
    for path in filter(_DECISION.fullmatch, seen.contents.sizes):
        uri = seen.contents.uri(path)
        body = control.read_object(uri, "a decision", "restore it")
        if (report := seen.contents.path(str(body.get("report")))) in reports:
            yield report, path.rsplit("/", 1)[0]
