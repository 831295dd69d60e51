"""The marker of a store: a file at its root that says that boig keeps this folder.

Whoever removes anything asks for it first, so that a wrong root loses nothing. Leaves out: what a
store holds (see `retention`).
"""

from __future__ import annotations

import re
import uuid
from itertools import islice
from typing import Final

from pydantic import BaseModel, ConfigDict

from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import control, store

MARKER: Final = "boig-store.json"
"""Name of the marker, at the root of a store."""
_JOB: Final = re.compile(r"runs/(?:[^/]+/)+attempt-\d+/job\.json")
# Jobs that are read before a folder counts as no store: more would only be of the same kind.
_LOOKED_AT: Final = 20


class StoreMarker(BaseModel):
    """Content of ``boig-store.json``.

    Attributes:
        what: what the file is, in a sentence.
        schema_version: its layout.
        id: tells stores apart; a copy of a store keeps it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    what: str = (
        "boig keeps this folder as a store: its outputs, runs and caches lie beside this file."
    )
    schema_version: int = 1
    id: str


def require(root: str) -> None:
    """See that a folder is a store, before anything in it is moved or removed.

    Raises:
        InputError: it has no marker.
        CorruptError: the marker cannot be read.
    """
    if read(root) is None:
        raise InputError(
            root,
            f"has no {MARKER} at its root, so nothing says that it is a store of boig",
            "check the location; the next run in a store of an older version marks it",
        )


def ensure(root: str) -> StoreMarker | None:
    """Prove that a store can be used (see `store.probe`), and mark it: the first act of whatever
    writes to one.

    An older store, known by the job of an attempt, is marked as well. A folder that holds other
    things, and no job yet, gets no marker: it may be a wrong one.

    Returns:
        The marker; None: the folder got none.

    Raises:
        InputError, StorePermissionError, StoreUnavailableError: as `store.probe`.
        CorruptError: there is a marker, and it cannot be read.
    """
    store.probe(root)
    if marker := read(root):
        return marker
    if not (_is_empty(root) or _has_job(root)):
        # Not empty, too, where another process has marked it since.
        return read(root)
    body = StoreMarker(id=uuid.uuid4().hex).model_dump_json(indent=1).encode()
    store.put_if_absent(store.join(root, MARKER), body)
    # Not the one of above: another process may have come first.
    return read(root)


def read(root: str) -> StoreMarker | None:
    """The marker of a store; None: it has none.

    Raises:
        CorruptError: it cannot be read.
    """
    try:
        return control.read(
            store.join(root, MARKER),
            StoreMarker,
            "the marker of a store",
            "remove it if this is a store of boig; the next run marks it again",
        )
    except NotFoundInStoreError:
        return None


def _is_empty(root: str) -> bool:
    # What a probe has written is gone a moment later; an alert may be sent before the first run.
    return all(file.path.startswith((f"{store.PROBE}/", "alerts/")) for file in store.walk(root))


def _has_job(root: str) -> bool:
    paths = (f"runs/{file.path}" for file in store.walk(store.join(root, "runs")))
    jobs = (path for path in paths if _JOB.fullmatch(path))
    return any(is_job(root, path) for path in islice(jobs, _LOOKED_AT))


def is_job(root: str, path: str) -> bool:
    """Whether a file of a store is the job of the attempt in whose folder it lies; a person's file
    of that name is not.

    Args:
        root: of the store.
        path: below it, ``runs/DAG/RUN/TASK[/MAP]/attempt-N/job.json``.
    """
    try:
        job = control.read_object(store.join(root, path), "a job", "")
    except (CorruptError, NotFoundInStoreError):
        return False
    folder = f"{job.get('task')}/attempt-{job.get('attempt')}/job.json"
    # Of a store that was copied the task's location may begin otherwise.
    return isinstance(job.get("stage"), str) and f"/{folder}".endswith(f"/{path}")
