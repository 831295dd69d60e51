"""Checkpoints in the store: written by all ranks while training goes on, true once the marker is
there, found by any later attempt.

Which of them a training goes on from: the furthest of those that are of the same work and the same
version of boig, by an attempt that counts (`boig_core.storage.ancestry`). The log's head says so.

A checkpoint is the folder ``attempt-N/checkpoints/[NAME/]step-000100/``. Each rank writes a local
snapshot, which alone stalls the step, and sends its files and then the list of them in a thread;
rank 0's thread writes ``complete.json`` once the lists of all ranks are there. The threads meet in
the store alone: collectives belong to the training. A folder without that marker does not count.
Leaves out: what a checkpoint holds (the engine writes it) and when to write one (the loop decides).
"""

from __future__ import annotations

import copy
import logging
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

from boig_core.errors import CorruptError, InputError, PreemptedError
from boig_core.observability.logs import get_logger
from boig_core.storage import commit as commits
from boig_core.storage import places, store
from boig_core.storage.ancestry import Ancestry, ancestry_of
from boig_core.storage.job import Job
from boig_core.storage.manifest import FileEntry, WentOnFrom, code_version, sha256_file
from boig_core.storage.paths import below
from boig_core.storage.stage import lineage_of
from boig_core.training.agreement import from_rank_0, on_every_rank
from boig_core.training.beginning import Point, what_it_reads, where_it_begins
from boig_core.training.checkpoint_marker import (
    FORMAT,
    MARKER,
    CheckpointMarker,
    difference,
    read_marker,
)
from boig_core.training.checkpoint_upload import Upload
from boig_core.training.ranks import rank, world_size
from boig_core.training.work import Work

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
        inputs: digest of each input by name; None: the training asks for that of its data itself.
        ancestry: the earlier attempts that count; None: all of them.
        job: of the stage; None: there is none.
        went_on_from: the checkpoints of earlier attempts that this one has gone on from, the first
            one first; set by `restore`.
    """

    task: str
    attempt: int
    name: str = ""
    inputs: Mapping[str, str] | None = None
    ancestry: Ancestry | None = None
    job: Job | None = None
    went_on_from: tuple[WentOnFrom, ...] = field(default=(), init=False)
    _work: Work = field(default_factory=Work, init=False, repr=False)
    _fields: dict[str, Any] | None = field(default=None, init=False, repr=False)
    _upload: Upload | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of_job(cls, job: Job, name: str = "") -> Checkpoints:
        """Those of a stage's job."""
        inputs = lineage_of(job).inputs
        return cls(job.task, job.attempt, name, inputs, ancestry_of(job), job)

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
            folders = on_every_rank(partial(_snapshot, what, local))
        except BaseException:
            shutil.rmtree(local, ignore_errors=True)
            raise
        uri = store.join(self._folder(self.attempt), f"step-{step:06d}")
        # A folder of its own for each save: after a restart the same step is written again, perhaps
        # beside a rank that is not dead yet.
        marker = {
            "format": FORMAT,
            "step": step,
            "work": self._work_fields(),
            "recipe": self._work.recipe,
            "code": code_version(),
            "went_on_from": [each.model_dump(mode="json") for each in self.went_on_from],
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
            on_every_rank(upload.sent.result)
            from_rank_0(upload.marked.result)
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

    def restore(self, what: Saveable, work: Work | None = None) -> Restored | None:
        """Load the newest complete checkpoint of this or an earlier attempt; None when there is
        none. Rank 0 logs what is read, what it goes on from, and what is passed over.

        Passed over for the one before it is a checkpoint whose files differ from its marker, or
        that an earlier attempt has left of other work or by another version of boig; none of an
        earlier attempt that does not count is looked at.

        Args:
            what: is loaded.
            work: what this training computes; it is saved with each checkpoint.

        Raises:
            InputError: a checkpoint of this attempt's own folder, or one that a person asked to go
                on from, is of other work or of an older format.
            CorruptError: a file is what its marker says, and yet holds no state of a training.
            BoigError: on every rank, what ``what`` met on any.
        """
        self.wait()
        self._work, self._fields = work or Work(), None
        passed_over: list[tuple[int, str]] = []
        for point in from_rank_0(self._points):
            with _scratch() as local:
                marker = from_rank_0(partial(self._examined, point))
                if isinstance(marker, str):
                    passed_over.append((point.attempt, marker))
                    continue
                try:
                    folder = _download(point.uri, marker, local)
                except CorruptError as exc:
                    # All ranks get here or none, since both calls agree on their errors: no two
                    # ranks go on from different checkpoints.
                    passed_over.append((point.attempt, f"{exc.value} {exc.rule}"))
                    continue
                # Not within the `try`: intact files that do not load are of another model or
                # recipe, or somebody made them up, and an older checkpoint would not mend that.
                try:
                    on_every_rank(partial(what.load, folder))
                except CorruptError as exc:
                    raise CorruptError(f"{point.uri}: {exc.value}", exc.rule, exc.remedy) from exc
            self.went_on_from = (*marker.went_on_from, *self._hop(point, marker))
            self._say(point, passed_over)
            return Restored(marker.step, marker.state)
        self.went_on_from = ()
        self._say(None, passed_over)
        return None

    def found(self) -> list[str]:
        """URIs of the complete checkpoints of this attempt and of the earlier ones that count, the
        furthest first, then the newest attempt's; every rank gets the same."""
        return [point.uri for point in from_rank_0(self._points)]

    def _points(self) -> list[Point]:
        points = [
            point
            for attempt in (self.attempt, *self._ancestry.attempts)
            for point in self._of_attempt(attempt)
        ]
        return sorted(points, key=lambda point: (point.step, point.attempt), reverse=True)

    def _of_attempt(self, attempt: int) -> list[Point]:
        folder = self._folder(attempt)
        paths = (MARKER.fullmatch(path) for path, _ in store.list_files(folder))
        return [
            Point(attempt, int(match[2]), store.join(folder, match[1])) for match in paths if match
        ]

    def _examined(self, point: Point) -> CheckpointMarker | str:
        """The marker of a checkpoint to go on from, or why it is passed over.

        Raises:
            InputError: as `restore`.
        """
        own, resumed = point.attempt == self.attempt, point.attempt in self._ancestry.resumed
        try:
            marker = read_marker(point.uri)
        except CorruptError as exc:
            return f"{exc.value} {exc.rule}"
        except InputError as exc:
            if own or resumed:
                raise
            return exc.rule
        # Another version alone is what a person may want: a fault may be mended by it.
        differing = difference(
            marker, self._work_fields(), self._work.defaults, any_version=resumed
        )
        if not differing:
            return marker
        rule = f"is of another recipe, input or version: {differing}"
        # In one folder two trainings would share one curve; and where a person has asked to go on,
        # to begin anew would be another thing.
        if own or resumed:
            other = "train into another folder" if own else "clear the task once more"
            raise InputError(point.uri, rule, f"set that back, or {other}")
        return rule

    def _work_fields(self) -> dict[str, Any]:
        """What this training computes, as a marker holds it."""
        if self._fields is None:
            self._fields = self._work.of(self.inputs)
        return self._fields

    def _hop(self, point: Point, marker: CheckpointMarker) -> tuple[WentOnFrom, ...]:
        """A checkpoint as lineage names it; an attempt's own is no other's work."""
        if point.attempt == self.attempt:
            return ()
        root = "" if self.job is None else self.job.store
        return (
            WentOnFrom(
                checkpoint=places.place_of(point.uri, root),
                step=marker.step,
                recipe=marker.recipe,
                code=marker.code,
                asked_by=self._ancestry.resumed.get(point.attempt),
            ),
        )

    def _say(self, point: Point | None, passed_over: Sequence[tuple[int, str]]) -> None:
        """The head of the training's log; also what earlier attempts that do not count have
        left."""
        if rank() != 0:
            return
        ancestry, job = self._ancestry, self.job
        left_out = [
            (attempt, why)
            for attempt, why in sorted(ancestry.left_out.items(), reverse=True)
            for _ in self._of_attempt(attempt)
        ]
        title = f"{self.name or (job.stage if job else 'training')}: "
        data = self._work_fields() if job is None else job.inputs
        log.info("%s", title + what_it_reads(self.attempt, ancestry, data, self._work.base))
        log.log(
            logging.WARNING if passed_over else logging.INFO,
            "%s",
            title + where_it_begins(point, [*passed_over, *left_out]),
        )

    @property
    def _ancestry(self) -> Ancestry:
        earlier = tuple(range(self.attempt - 1, 0, -1))
        return self.ancestry or Ancestry("rerun" if earlier else "first", earlier)

    def _folder(self, attempt: int) -> str:
        return store.join(
            commits.attempt_uri(self.task, attempt),
            *["checkpoints", self.name][: 2 if self.name else 1],
        )


def _snapshot(what: Saveable, local: Path) -> str:
    """Write a rank's part; returns a name that no other save has."""
    what.save(local)
    return uuid.uuid4().hex[:12]


def _download(uri: str, marker: CheckpointMarker, local: Path) -> Path:
    """Fetch and check the files of all ranks, each file once a machine; returns the folder, which
    the machine's ranks share."""
    places = on_every_rank(lambda: (socket.gethostname(), str(local)))
    # Equal host names need not mean one disk (containers); then the other rank's folder is not
    # there.
    together = [
        place for host, place in places if host == socket.gethostname() and Path(place).is_dir()
    ]
    source, folder = store.join(uri, marker.folder), Path(together[0])
    # Ranks of a machine see `together` in one order, so their shares do not overlap.
    mine = marker.files[together.index(str(local)) :: len(together)]
    on_every_rank(partial(_fetch, source, mine, folder))
    return folder


def _fetch(source: str, entries: Sequence[FileEntry], folder: Path) -> None:
    for entry in entries:
        file, target = store.join(source, entry.path), below(folder, entry.path)
        try:
            store.download_file(file, target)
        except FileNotFoundError as exc:
            raise CorruptError(file, "is missing", "an older checkpoint is used") from exc
        if target.stat().st_size != entry.size or sha256_file(target) != entry.sha256:
            raise CorruptError(file, "differs from its marker", "an older checkpoint is used")


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="boig-checkpoint-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
