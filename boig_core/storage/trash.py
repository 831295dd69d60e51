"""The trash of a store: what `retention` takes away lies below ``.trash/DATE/`` under its old path,
until a later clean-up finds it there for longer than the days of grace.

Nothing else reads it, and no listing of runs or outputs shows it. Leaves out: what goes there (see
`retention`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from boig_core.storage import store
from boig_core.storage.store import File

GRACE_DAYS: Final = 7.0
"""Days that a file lies in the trash at least."""
_DATE: Final = "%Y-%m-%dT%H-%M-%SZ"
_TRASHED: Final = re.compile(
    r"\.trash/(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)-[0-9a-f]{8}/(?P<path>.+)"
)


class Trashed(NamedTuple):
    """A file in the trash: where it ``was``, ``since`` when it lies there (seconds since 1970), and
    the ``file``."""

    was: str
    since: float
    file: File


def trashed(file: File) -> Trashed | None:
    """A file of a store as one in its trash; None: it is not there, or a person has put it
    there."""
    match = _TRASHED.fullmatch(file.path)
    if match is None:
        return None
    try:
        since = datetime.strptime(match["date"], _DATE).replace(tzinfo=UTC)
    except ValueError:  # such as the 31st of February
        return None
    return Trashed(match["path"], since.timestamp(), file)


def is_over(entry: Trashed, now: float) -> bool:
    """Whether a file's days of grace are over."""
    return now - entry.since > GRACE_DAYS * 86_400


def move(root: str, files: Iterable[File], now: float, before: float) -> Iterator[File]:
    """Move files of a store to its trash, in their order, and yield each that was moved.

    Args:
        root: of the store.
        files: with paths below it.
        now: the store's time, which the trash is dated with.
        before: what was written since stays.
    """
    # By name rather than by the time of the files, which a move on a disk leaves as it was.
    folder = f".trash/{datetime.fromtimestamp(now, UTC):{_DATE}}-{uuid.uuid4().hex[:8]}"
    for file in files:
        target = store.join(root, folder, file.path)
        if store.move_file(store.join(root, file.path), target, before):
            yield file


def empty(root: str, entries: Iterable[Trashed]) -> None:
    """Remove files in the trash for good."""
    for entry in entries:
        store.delete_file(store.join(root, entry.file.path))
