"""One listing of a store, by what its files belong to, and which of them are boig's.

A file is boig's if a manifest, a job or a lease of boig names it; a person's file in the same
folder is foreign. Leaves out: what may go (see `retention`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final

from pydantic import BaseModel

from boig_core.errors import CorruptError, NotFoundInStoreError
from boig_core.storage import commit, control, marker, store
from boig_core.storage.job import JOB, version_of
from boig_core.storage.manifest import MANIFEST, Manifest, resolve
from boig_core.storage.paths import is_inner
from boig_core.storage.store import File
from boig_core.storage.trash import Trashed, trashed
from boig_core.storage.withdrawn import WITHDRAWN

# Blobs and staging lie where versions do, and belong to all versions of a dataset: see `_SHARED`.
OUTPUT: Final = re.compile(
    r"(?P<family>(?:datasets|models|evaluations)/[^/]+|reports)/(?P<version>(?!blobs/|staging/)[^/]+)/.+"
)
"""Path of a file of an output, below the root of a store."""
_SHARED: Final = re.compile(r"(?P<dataset>datasets/[^/]+)/(?P<kind>blobs|staging)/.+")
_SHARD_OR_INDEX: Final = re.compile(
    r"datasets/[^/]+/(?:blobs/(?:posts|images)-[0-9a-f]{16}|staging/[0-9a-f]{32})\.parquet"
)
"""Shards are named by the hash of their bytes, indexes by that of what was asked for."""
_ATTEMPT_FILE: Final = re.compile(
    r"runs/(?P<run>[^/]+/[^/]+)/(?P<task>[^/]+(?:/\d+)?)/attempt-(?P<attempt>\d+)/"
    r"(?:(?:job|commit|error|resume|deepspeed)\.json|metrics\.jsonl|log-shown|(?:checkpoints|samples|log)/.+)"
)
_RUN_FILE: Final = re.compile(
    r"(?P<run>runs/[^/]+/[^/]+)/(?:(?:recipe|summary|period|timings|experiment|request|policy|decision)\.json"
    r"|recipes/[^/]+\.json|(?<=/turns/)\d{6,12}\.json|SHA256SUMS(?:\.sig)?)"
)
"""What orchestration writes beside the attempts of a run; a turn is the lease of a run."""
_KEPT: Final = re.compile(
    rf"(?:perception|rewards|alerts|forgotten|{re.escape(store.PROBE)})/.+|{re.escape(marker.MARKER)}"
)
"""What boig writes and never takes away."""
_REMEDY: Final = "restore it, or remove its folder by hand"


class _Names(BaseModel):
    """What a job or a commit refers to."""

    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class _Data(BaseModel):
    name: str


class _Recipe(BaseModel):
    data: _Data


class _Ingestion(BaseModel):
    """What a job says of the dataset that it works on."""

    recipe: _Recipe


class Inventory:
    """The files of a store and their age; folders and paths are relative to its ``root``.

    Args:
        root: of the store.
        now: seconds since 1970.
        days: what is younger counts as young.

    Attributes:
        root: of the store.
        now: that time, or when boig has written last if that is earlier: a clock that runs ahead
            makes nothing old, and a store that is not used does not age.
        before: what was written since is young.
        outputs: files by the folder of their output.
        shared: shards and staging indexes by dataset and kind.
        attempts: files by attempt.
        runs: files beside the attempts of a run, by run.
        trash: what lies in the trash.
    """

    def __init__(self, root: str, now: float, days: float) -> None:
        self.root = root
        self.outputs: dict[str, list[File]] = defaultdict(list)
        self.shared: dict[tuple[str, str], list[File]] = defaultdict(list)
        self.attempts: dict[str, list[File]] = defaultdict(list)
        self.runs: dict[str, list[File]] = defaultdict(list)
        self.trash: list[Trashed] = []
        self._strange: list[File] = []
        for file in store.list_with_times(root):
            self._place(file)
        groups = (self.outputs, self.shared, self.attempts, self.runs)
        ours = (file for group in groups for files in group.values() for file in files)
        self.now = min(now, max((file.modified for file in ours), default=now))
        self.before = self.now - days * 86_400

    def _place(self, file: File) -> None:
        path = file.path
        if not is_inner(path):
            self._strange.append(file)
        elif match := OUTPUT.fullmatch(path):
            self.outputs[f"{match['family']}/{match['version']}"].append(file)
        elif match := _SHARED.fullmatch(path):
            self.shared[match["dataset"], match["kind"]].append(file)
        elif match := _RUN_FILE.fullmatch(path):
            self.runs[match["run"]].append(file)
        elif match := _ATTEMPT_FILE.fullmatch(path):
            folder = f"runs/{match['run']}/{match['task']}/attempt-{match['attempt']}"
            self.attempts[folder].append(file)
        elif entry := trashed(file):
            self.trash.append(entry)
        elif not _KEPT.fullmatch(path):
            self._strange.append(file)

    def old(self, files: Iterable[File]) -> bool:
        """Whether all were written before the days that count."""
        return all(file.modified < self.before for file in files)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifest of each output that has one.

        Raises:
            CorruptError: one cannot be read: what it refers to is unknown, so nothing may go.
        """
        return {
            folder: self._manifest(f"{folder}/{MANIFEST}")
            for folder, files in self.outputs.items()
            if f"{folder}/{MANIFEST}" in paths_of(files)
        }

    def path(self, uri: str) -> str:
        """Path below the root; a location elsewhere stays as it is and matches nothing."""
        return uri.rstrip("/").removeprefix(f"{self.root.rstrip('/')}/")

    def named_by(self, attempt: str) -> Iterator[str]:
        """Outputs that an attempt reads or has made.

        Raises:
            CorruptError: its job or commit cannot be read.
        """
        for name in (JOB, commit.COMMIT):
            if f"{attempt}/{name}" in paths_of(self.attempts[attempt]):
                file = store.join(self.root, attempt, name)
                names = control.read(file, _Names, "a control file of an attempt", _REMEDY)
                yield from (self.path(uri) for uri in (names.inputs | names.outputs).values())

    def is_withdrawn(self, folder: str) -> bool:
        """Whether an output's files were erased, and its manifest stays for what was made from
        it."""
        return f"{folder}/{WITHDRAWN}" in paths_of(self.outputs[folder])

    def files_named_by(self, folder: str) -> set[str]:
        """Paths of all files that an output's manifest names, those beside it included."""
        entries = self.manifests[folder].files if folder in self.manifests else ()
        return {self.path(resolve(store.join(self.root, folder), entry.path)) for entry in entries}

    def maker(self, folder: str) -> str | None:
        """The attempt that an output's folder is named after, if it is there."""
        return self._makers.get(folder.rsplit("/", 1)[-1])

    @cached_property
    def _makers(self) -> dict[str, str]:
        makers = {}
        for attempt in self.attempts:
            task, _, number = attempt.removeprefix("runs/").rpartition("/attempt-")
            makers[version_of(task, int(number))] = attempt
        return makers

    def own_of_output(self, folder: str) -> list[File]:
        """Files in an output's folder that are boig's."""
        files = self.outputs[folder]
        if folder in self.manifests:
            named = self.files_named_by(folder)
            named |= {f"{folder}/{name}" for name in (MANIFEST, WITHDRAWN)}
            return [file for file in files if file.path in named]
        # A clean-up that was cut short has taken the manifest, and the rest is to follow it.
        before = next((e for e in self.trash if e.was == f"{folder}/{MANIFEST}"), None)
        if before is not None:
            names = {f"{folder}/{entry.path}" for entry in self._manifest(before.file.path).files}
            return [file for file in files if file.path in names]
        attempt = self.maker(folder)
        # One that has committed had a manifest, and what it named is gone.
        died = (
            attempt is not None
            and self.is_own_attempt(attempt)
            and (commit.read_commit(store.join(self.root, attempt)) is None)
        )
        return files if died else []

    def own_of_shared(self, dataset: str, files: Sequence[File]) -> list[File]:
        """Shards and indexes of a dataset that are boig's."""
        return [
            file
            for file in files
            if file.path in self._named
            or (_SHARD_OR_INDEX.fullmatch(file.path) and dataset in self._datasets)
        ]

    @cached_property
    def _named(self) -> set[str]:
        """Paths that any manifest names."""
        return set[str]().union(*(self.files_named_by(folder) for folder in self.manifests))

    @cached_property
    def _datasets(self) -> set[str]:
        """Datasets that a manifest or a job names."""
        outputs = [*self.manifests, *(e.was.rpartition("/")[0] for e in self.trash)]
        names = {folder.rsplit("/", 1)[0] for folder in outputs}
        if all(dataset in names for dataset, _ in self.shared):
            return names
        jobs = (f"{attempt}/{JOB}" for attempt in self.attempts if is_of_ingestion(attempt))
        for path in jobs:
            try:
                uri = store.join(self.root, path)
                job = control.read(uri, _Ingestion, "a job", _REMEDY)
            except (CorruptError, NotFoundInStoreError):
                continue
            names.add(f"datasets/{job.recipe.data.name}")
        return names

    def is_own_attempt(self, folder: str) -> bool:
        """Whether an attempt is boig's, by its job, or by its fence where nothing else was
        written."""
        if marker.is_job(self.root, f"{folder}/{JOB}"):
            return True
        if paths_of(self.attempts[folder]) != {f"{folder}/{commit.COMMIT}"}:
            return False
        try:
            uri = store.join(self.root, folder, commit.COMMIT)
            return control.read_object(uri, "a fence", _REMEDY).get("fenced") is True
        except CorruptError:
            return False

    def is_own_run(self, run: str) -> bool:
        """Whether what lies beside the attempts of a run is boig's: by its DAG, or by an attempt
        that is there or in the trash."""
        return (
            run.startswith("runs/boig_")
            or any(e.was.startswith(f"{run}/") and store.name(e.was) == JOB for e in self.trash)
            or any(a.startswith(f"{run}/") and self.is_own_attempt(a) for a in self.attempts)
        )

    def foreign(self) -> list[File]:
        """Files that nothing of boig names."""
        files = list(self._strange)
        for folder, inside in self.outputs.items():
            own = paths_of(self.own_of_output(folder))
            files += [file for file in inside if file.path not in own]
        for (dataset, _), inside in self.shared.items():
            own = paths_of(self.own_of_shared(dataset, inside))
            files += [file for file in inside if file.path not in own]
        for run, inside in self.runs.items():
            files += [] if self.is_own_run(run) else inside
        return sorted(files)

    def _manifest(self, path: str) -> Manifest:
        return control.read(store.join(self.root, path), Manifest, "a manifest", _REMEDY)


def is_of_ingestion(attempt: str) -> bool:
    """Whether an attempt reads or makes shards."""
    return re.search(r"/(ingest|perceive)(/\d+)?/attempt-", attempt) is not None


def paths_of(files: Iterable[File]) -> set[str]:
    """Paths of files."""
    return {file.path for file in files}
