"""Checkpoints in the store: written by all ranks while training goes on, true once the marker is
there, found by any later attempt.

A checkpoint is the folder ``attempt-N/checkpoints/[NAME/]step-000100/``. Each rank writes a local
snapshot, which alone stalls the step, and sends its files and then the list of them in a thread;
rank 0's thread writes ``complete.json`` once the lists of all ranks are there. The threads meet in
the store alone: collectives belong to the training. A folder without that marker does not count.
Leaves out: what a checkpoint holds (the engine writes it) and when to write one (the loop decides).
"""

from __future__ import annotations

import copy
import json
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, field_validator

from boig_core.errors import (
    BoigError,
    CorruptError,
    InfrastructureError,
    InputError,
    PreemptedError,
)
from boig_core.observability.logs import get_logger
from boig_core.storage import commit as commits
from boig_core.storage import store
from boig_core.storage.job import Job
from boig_core.storage.manifest import FileEntry, sha256_file
from boig_core.training.checkpoint_upload import COMPLETE, MARKER, Upload
from boig_core.training.ranks import rank, world_size
from boig_core.training.work import work_of

_FORMAT = 4
T = TypeVar("T")
log = get_logger(__name__)


class Saveable(Protocol):
    """What a checkpoint saves: narrow, so that a loop can put more than one engine (an EMA beside
    it) into one checkpoint."""

    def save(self, folder: Path) -> None:
        """Write this rank's part into a local folder."""

    def load(self, folder: Path) -> None:
        """Continue from the files of all ranks; they are shared with other ranks, so change
        none."""


@dataclass(frozen=True)
class Restored:
    """Where a restored training stands: ``step`` and the ``state`` that was saved with it."""

    step: int
    state: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one task, seen from one attempt. Every rank makes one and calls the same
    methods, `wait` as the last.

    Attributes:
        task: URI of the task's folder.
        attempt: the running attempt; it alone is written to.
        name: tells several trainings of one task apart; empty: there is one.
        work: digest of what is trained on what: no other work's checkpoint is gone on from.
        since: the first attempt whose checkpoints count.
    """

    task: str
    attempt: int
    name: str = ""
    work: str = ""
    since: int = 1
    _upload: Upload | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of_job(cls, job: Job, name: str = "") -> Checkpoints:
        """Those of a stage's job. An attempt that has committed was finished: what comes after it
        was asked for by a clear, or by a new run of the same name, and begins anew."""
        since = job.attempt
        while since > 1 and commits.fate(commits.attempt_uri(job.task, since - 1)) != "committed":
            since -= 1
        return cls(job.task, job.attempt, name, work_of(job), since)

    def save(self, what: Saveable, step: int, state: Mapping[str, Any] | None = None) -> str:
        """Snapshot ``step`` (steps done so far) with a small JSON state, and start to upload it;
        returns its URI.

        One upload is under way at a time: the next `save`, and `wait`, wait for it. Older
        checkpoints of this attempt are removed once this one is complete.

        Raises:
            BoigError: on every rank, if any could not write its snapshot now, or send its part of
                the checkpoint before; the first of what they met. What is incomplete does not
                count.
        """
        self.wait()
        local = Path(tempfile.mkdtemp(prefix="boig-checkpoint-"))
        try:
            folders = _every_rank(partial(_snapshot, what, local))
        except BaseException:
            shutil.rmtree(local, ignore_errors=True)
            raise
        uri = store.join(self._folder(self.attempt), f"step-{step:06d}")
        # A folder of its own for each save: after a restart the same step is written again, perhaps
        # beside a rank that is not dead yet.
        marker = {
            "format": _FORMAT,
            "step": step,
            "work": self.work,
            "workers": world_size(),
            "folder": folders[0],
            # As it is now: the training goes on changing it while the files are sent.
            "state": copy.deepcopy(dict(state or {})),
        }
        self._upload = Upload(local, uri, marker)
        return uri

    def wait(self) -> None:
        """Wait until the checkpoint that was saved last is complete. A training calls it at its
        end, or may lose that checkpoint.

        Raises:
            BoigError: as `save`.
        """
        # Forgotten before it is asked: a failure is told once, and the next save starts anew.
        upload, self._upload = self._upload, None
        if upload is None:
            return
        try:
            # First whether all ranks sent: rank 0's thread waits for the list of one that failed
            # until `ended` is set.
            _every_rank(upload.sent.result)
            _broadcast(upload.marked.result)
        finally:
            upload.ended.set()

    def leave(self) -> NoReturn:
        """End a training whose machine goes, once what it saved last is complete.

        Raises:
            PreemptedError: always; the training goes on from there elsewhere.
            BoigError: as `save`.
        """
        self.wait()
        raise PreemptedError(
            self.task,
            "its machine is about to go, and its state is saved",
            "start it again elsewhere",
        )

    def restore(self, what: Saveable) -> Restored | None:
        """Load the newest complete checkpoint of this or an older attempt; None when there is none.

        A checkpoint whose files differ from its marker, or that an older attempt has left of other
        work, is passed over with a warning for the one before it.

        Raises:
            InputError: this attempt's own folder holds checkpoints of other work, or one is of an
                older version.
            CorruptError: a file is what its marker says, and yet holds no state of a training.
            BoigError: on every rank, what ``what`` met on any.
        """
        self.wait()
        for uri in self.found():
            with _scratch() as local:
                try:
                    marker = _broadcast(partial(_read_marker, uri))
                    if marker.work != self.work:
                        self._pass_over(uri)
                        continue
                    folder = _download(uri, marker, local)
                except CorruptError as exc:
                    # All ranks get here or none, since both calls agree on their errors: no two
                    # ranks go on from different checkpoints.
                    log.warning("checkpoint passed over: %s", exc)
                    continue
                # Not within the `try`: intact files that do not load are of another model or
                # recipe, or somebody made them up, and an older checkpoint would not mend that.
                try:
                    _every_rank(partial(what.load, folder))
                except CorruptError as exc:
                    raise CorruptError(f"{uri}: {exc.value}", exc.rule, exc.remedy) from exc
            if rank() == 0:
                log.info("continuing from %s", uri)
            return Restored(marker.step, marker.state)
        return None

    def _pass_over(self, uri: str) -> None:
        """Say that a checkpoint is of other work."""
        rule = "was made by another recipe, or of other inputs"
        if uri.startswith(self._folder(self.attempt)):
            raise InputError(uri, rule, "train into another folder, or remove this one")
        log.warning("checkpoint passed over: %s %s", uri, rule)

    def found(self) -> list[str]:
        """URIs of the complete checkpoints of all attempts, the furthest first, then the newest
        attempt's; every rank gets the same."""
        return _broadcast(self._found)

    def _found(self) -> list[str]:
        steps: list[tuple[int, int, str]] = []
        for attempt in range(self.attempt, self.since - 1, -1):
            folder = self._folder(attempt)
            for path, _ in store.list_files(folder):
                if match := MARKER.fullmatch(path):
                    steps.append((int(match[2]), attempt, store.join(folder, match[1])))
        return [uri for _, _, uri in sorted(steps, reverse=True)]

    def _folder(self, attempt: int) -> str:
        return store.join(
            commits.attempt_uri(self.task, attempt),
            *["checkpoints", self.name][: 2 if self.name else 1],
        )


def _snapshot(what: Saveable, local: Path) -> str:
    """Write a rank's part; returns a name that no other save has."""
    what.save(local)
    return uuid.uuid4().hex[:12]


class _File(FileEntry):
    """A file of a checkpoint. Unlike one of an output, it lies inside its folder."""

    @field_validator("path")
    @classmethod
    def _lies_inside(cls, path: str) -> str:
        if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError("must lie inside the checkpoint's folder")
        return path


class _Marker(BaseModel):
    """Content of ``complete.json``."""

    model_config = ConfigDict(frozen=True)
    step: int
    work: str
    folder: str = Field(pattern="^[0-9a-f]+$")
    state: dict[str, Any]
    files: tuple[_File, ...]


def _read_marker(uri: str) -> _Marker:
    target, remedy = store.join(uri, COMPLETE), "an older checkpoint is used"
    try:
        body = json.loads(store.read_bytes(target))
        version = int(body.get("format", 1))
        if version == _FORMAT:
            return _Marker.model_validate(body)
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise CorruptError(target, "is no marker", remedy) from exc
    if version > _FORMAT:
        raise CorruptError(target, f"has format {version}, newer than {_FORMAT}", remedy)
    raise InputError(
        target,
        f"has format {version}; from {_FORMAT} on a state is data alone",
        "end this run with the version that began it, or start a new one",
    )


def _download(uri: str, marker: _Marker, local: Path) -> Path:
    """Fetch and check the files of all ranks, each file once a machine; returns the folder, which
    the machine's ranks share."""
    places = _every_rank(lambda: (socket.gethostname(), str(local)))
    # Equal host names need not mean one disk (containers); then the other rank's folder is not
    # there.
    together = [
        place for host, place in places if host == socket.gethostname() and Path(place).is_dir()
    ]
    source, folder = store.join(uri, marker.folder), Path(together[0])
    # Ranks of a machine see `together` in one order, so their shares do not overlap.
    mine = marker.files[together.index(str(local)) :: len(together)]
    _every_rank(partial(_fetch, source, mine, folder))
    return folder


def _fetch(source: str, files: Sequence[FileEntry], folder: Path) -> None:
    for entry in files:
        file, target = store.join(source, entry.path), folder / entry.path
        try:
            store.download_file(file, target)
        except FileNotFoundError as exc:
            raise CorruptError(file, "is missing", "an older checkpoint is used") from exc
        if target.stat().st_size != entry.size or sha256_file(target) != entry.sha256:
            raise CorruptError(file, "differs from its marker", "an older checkpoint is used")


def _every_rank(act: Callable[[], T]) -> list[T]:
    """Run something on every rank and gather the results; if it fails anywhere, raise everywhere:
    no rank is left waiting."""
    outcome: tuple[T | None, BoigError | None]
    try:
        outcome = (act(), None)
    except BoigError as exc:
        outcome = (None, exc)
    except Exception as exc:
        # An error of boig's pickles whole, which the collective needs; a foreign one may not.
        outcome = (
            None,
            InfrastructureError(
                f"rank {rank()}", f"failed at a checkpoint ({exc!r})", "see its log"
            ),
        )
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
