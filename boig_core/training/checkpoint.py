"""Checkpoints in the store: written by all ranks, true once the marker is there, found again by any later attempt of the task.

A checkpoint is the folder ``attempt-N/checkpoints/[NAME/]step-000100/``; each rank uploads its own files and rank 0 writes
``complete.json`` last, with size and SHA-256 of every file. A folder without that marker does not count. Leaves out: what a
checkpoint holds (the engine writes it) and when to write one (the loop decides).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from boig_core.errors import BoigError, CorruptError, InfrastructureError
from boig_core.observability.logs import get_logger
from boig_core.storage import commit as commits
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry, sha256_file
from boig_core.training.engine import rank, world_size

COMPLETE = "complete.json"
T = TypeVar("T")
log = get_logger(__name__)


class Saveable(Protocol):
    """What a checkpoint saves: narrow, so that a loop can put more than one engine (an EMA beside it) into one checkpoint."""

    def save(self, folder: Path) -> None:
        """Write this rank's part into a local folder."""

    def load(self, folder: Path) -> None:
        """Continue from the files of all ranks."""


@dataclass(frozen=True)
class Restored:
    """Where a restored training stands: ``step`` and the ``state`` that was saved with it."""

    step: int
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one task, seen from one attempt. Every rank makes one and calls the same methods.

    Attributes:
        task: URI of the task's folder.
        attempt: the running attempt; it alone is written to.
        name: tells several trainings of one task apart; empty: there is one.
    """

    task: str
    attempt: int
    name: str = ""

    def save(self, what: Saveable, step: int, state: Mapping[str, Any] | None = None) -> str:
        """Write the checkpoint of ``step`` (steps done so far) with a small JSON state; returns its URI.

        Raises:
            InfrastructureError: another rank could not write its part; nothing counts then.
        """
        uri = store.join(self._folder(self.attempt), f"step-{step:06d}")
        with _scratch() as local:
            what.save(local)
            mine = [
                FileEntry(path=p.relative_to(local).as_posix(), size=p.stat().st_size, sha256=sha256_file(p))
                for p in sorted(local.rglob("*"))
                if p.is_file() and p.suffix != ".py"  # DeepSpeed adds conversion scripts
            ]
            parts = _every_rank(lambda: _upload(mine, local, uri))
        if rank() == 0:
            files = {entry.path: entry.model_dump() for part in parts for entry in part}
            marker = {"step": step, "workers": world_size(), "files": list(files.values()), "state": dict(state or {})}
            store.write_bytes(store.join(uri, COMPLETE), json.dumps(marker).encode())
        return uri

    def restore(self, what: Saveable) -> Restored | None:
        """Load the newest complete checkpoint of this or an older attempt; None when there is none.

        A checkpoint whose files differ from its marker is passed over with a warning for the one before it.
        """
        for uri in self.found():
            with _scratch() as local:
                try:
                    marker = _broadcast(partial(_read_marker, uri))
                    _every_rank(partial(_download, uri, marker, local))
                except CorruptError as exc:
                    log.warning("checkpoint passed over: %s", exc)
                    continue
                what.load(local)
            if rank() == 0:
                log.info("continuing from %s", uri)
            return Restored(int(marker["step"]), marker["state"])
        return None

    def found(self) -> list[str]:
        """URIs of the complete checkpoints of all attempts, the furthest first, then the newest attempt's; every rank gets the same."""
        return _broadcast(self._found)

    def _found(self) -> list[str]:
        steps: list[tuple[int, int, str]] = []
        for attempt in range(self.attempt, 0, -1):
            folder = self._folder(attempt)
            for path, _ in store.list_files(folder):
                match = re.fullmatch(rf"(step-(\d+))/{re.escape(COMPLETE)}", path)
                if match:
                    steps.append((int(match[2]), attempt, store.join(folder, match[1])))
        return [uri for _, _, uri in sorted(steps, reverse=True)]

    def _folder(self, attempt: int) -> str:
        return store.join(commits.attempt_uri(self.task, attempt), *["checkpoints", self.name][: 2 if self.name else 1])


def _upload(entries: list[FileEntry], local: Path, uri: str) -> list[FileEntry]:
    for entry in entries:
        store.upload_file(local / entry.path, store.join(uri, entry.path))
    return entries


def _read_marker(uri: str) -> dict[str, Any]:
    marker: dict[str, Any] = json.loads(store.read_bytes(store.join(uri, COMPLETE)))
    return marker


def _download(uri: str, marker: Mapping[str, Any], local: Path) -> None:
    for item in marker["files"]:
        entry = FileEntry.model_validate(item)
        target = local / entry.path
        try:
            store.download_file(store.join(uri, entry.path), target)
        except FileNotFoundError as exc:
            raise CorruptError(store.join(uri, entry.path), "is missing", "an older checkpoint is used") from exc
        if target.stat().st_size != entry.size or sha256_file(target) != entry.sha256:
            raise CorruptError(store.join(uri, entry.path), "differs from its marker", "an older checkpoint is used")


def _every_rank(act: Callable[[], T]) -> list[T]:
    """Run something on every rank and gather the results; if it fails anywhere, raise everywhere: no rank is left waiting."""
    outcome: tuple[T | None, BoigError | None]
    try:
        outcome = (act(), None)
    except BoigError as exc:
        outcome = (None, exc)
    except Exception as exc:
        outcome = (None, InfrastructureError(f"rank {rank()}", f"failed at a checkpoint ({exc!r})", "see its log"))
    gathered: list[Any] = [outcome]
    if world_size() > 1:
        gathered = [None] * world_size()
        dist.all_gather_object(gathered, outcome)
    errors = [error for _, error in gathered if error is not None]
    if errors:
        raise errors[0]
    return [value for value, _ in gathered]


def _broadcast(act: Callable[[], T]) -> T:
    """Rank 0's result on every rank (object stores may show ranks different listings)."""
    return _every_rank(lambda: act() if rank() == 0 else None)[0]  # type: ignore[return-value]


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="boig-checkpoint-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
