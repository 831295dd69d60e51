"""Is a store whole? Every manifest, its files byte by byte, its commit, and what it was made from.

Reads all and changes nothing. Files that no manifest names (logs, checkpoints, caches) are counted
and not read: nobody has said what must stand in them. Leaves out: mending (a stage makes its output
again) and what an image or a model looks like inside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from boig_core.errors import (
    CorruptError,
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from boig_core.observability.progress import Progress
from boig_core.storage import commit, control, places, store
from boig_core.storage.inventory import OUTPUT
from boig_core.storage.job import JOB
from boig_core.storage.manifest import MANIFEST, FileEntry, Manifest, read_written, resolve
from boig_core.storage.marker import MARKER
from boig_core.storage.runs import ATTEMPT
from boig_core.storage.withdrawn import WITHDRAWN

T = TypeVar("T")
S = TypeVar("S")
READERS: Final = 8
"""Files that are read at a time."""
UNFINISHED: Final = "boig-copy.json"
"""File at the root of a copy that is not finished: what it is a copy of."""
_PIECE: Final = 2**20


@dataclass(frozen=True)
class Fault:
    """What is wrong in a store: the ``place`` and the ``rule`` that it breaks."""

    place: str
    rule: str


@dataclass
class Inspection:
    """What was looked at in a store, and what was wrong.

    Attributes:
        outputs: folders that a manifest and a commit make true.
        uncommitted: folders with a manifest whose attempt never committed; they do not count.
        removed: outputs that a commit names and that are gone, as `boig clean` leaves them.
        withdrawn: outputs of which `boig forget` has left the manifest alone.
        named: files that manifests name, each once.
        bytes: their size.
        others: files that no manifest names.
        faults: what is wrong.
    """

    outputs: int = 0
    uncommitted: int = 0
    commits: int = 0
    fences: int = 0
    jobs: int = 0
    removed: int = 0
    withdrawn: int = 0
    named: int = 0
    bytes: int = 0
    others: int = 0
    faults: list[Fault] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For a terminal: what is wrong, then the counts."""
        for fault in self.faults:
            yield f"{fault.place}: {fault.rule}"
        yield (
            f"{self.outputs} outputs of {self.named:,} files, {self.bytes / 2**20:,.1f} MiB;"
            f" {self.commits} commits, {self.jobs} jobs; {self.others:,} other files"
        )
        if self.withdrawn:
            yield f"{self.withdrawn} of the outputs were withdrawn, since posts were forgotten"
        yield "whole" if not self.faults else f"{len(self.faults)} faults"


class Contents:
    """One listing of a store and the control files in it; paths are below ``root``.

    Attributes:
        sizes: of every file by its path.
        manifests: by the path of the output's folder.
        faults: of control files that cannot be read.
    """

    def __init__(self, root: str) -> None:
        self.root = store.normalize(root)
        self.files = store.list_with_times(self.root)
        self.sizes = {file.path: file.size for file in self.files}
        self.faults: list[Fault] = []
        self.manifests = self._all(output_folders(self.sizes), self._manifest)

    def commits(self) -> dict[str, dict[str, Any] | None]:
        """Commit of each attempt that ended; None: it was fenced."""
        return self._all(
            attempts_with(self.sizes, commit.COMMIT),
            lambda path: commit.require_commit(self.uri(path)),
        )

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Content of the job file of each attempt; its recipe may be an older boig's."""
        return self._all(attempts_with(self.sizes, JOB), self._job)

    def uri(self, path: str) -> str:
        """Location of a file or folder."""
        return store.join(self.root, path)

    def path(self, uri: str) -> str:
        """Path of a location in the store."""
        return places.place_of(uri, self.root)

    def entries(self, folder: str) -> Iterator[tuple[str, FileEntry]]:
        """Path and entry of each file of an output."""
        for entry in self.manifests[folder].files:
            yield self.path(resolve(self.uri(folder), entry.path)), entry

    def _manifest(self, folder: str) -> Manifest:
        manifest = read_written(self.uri(folder))
        # A root that lies deeper would lead to another commit.
        if manifest.place != folder:
            raise CorruptError(folder, f"calls its place {manifest.place}", "restore its manifest")
        return manifest

    def _job(self, attempt: str) -> dict[str, Any]:
        uri = store.join(self.uri(attempt), JOB)
        what = ("a job file", "restore it")
        tree = control.read_object(uri, *what)
        places.require_schema(uri, tree, what[0])
        control.validated(uri, dict[str, str], tree.get("inputs"), *what)
        return tree

    def _all(self, paths: Iterable[str], read: Callable[[str], T]) -> dict[str, T]:
        """Read control files side by side; those that cannot be read become faults."""

        def attempt(path: str) -> T | Fault:
            try:
                return read(path)
            except UserError as exc:
                return Fault(path, f"{exc.rule}; {exc.remedy}")

        listed = list(paths)
        results = dict(zip(listed, side_by_side(attempt, listed), strict=True))
        self.faults += [fault for fault in results.values() if isinstance(fault, Fault)]
        return {path: result for path, result in results.items() if not isinstance(result, Fault)}


def output_folders(paths: Iterable[str]) -> list[str]:
    """Folders of outputs that have a manifest, among the paths of a store."""
    matches = ((path, OUTPUT.fullmatch(path)) for path in paths)
    folders = [(path, f"{match['family']}/{match['version']}") for path, match in matches if match]
    return [folder for path, folder in folders if path == f"{folder}/{MANIFEST}"]


def attempts_with(paths: Iterable[str], file: str) -> list[str]:
    """Folders of attempts that hold a file of this name, among the paths of a store."""
    runs = (path.removeprefix("runs/") for path in paths if path.startswith("runs/"))
    matches = (ATTEMPT.fullmatch(path) for path in runs)
    return [
        f"runs/{match['run']}/{match['task']}/attempt-{match['attempt']}"
        for match in matches
        if match and match["file"] == file
    ]


def check_store(root: str, say: Callable[[str], object]) -> Inspection:
    """Check a store.

    Args:
        root: of the store.
        say: takes lines of progress.

    Raises:
        InputError: nothing there says that it is a store.
        StoreUnavailableError: the store does not answer.
    """
    contents = Contents(root)
    require_store(contents)
    inspection = Inspection()
    if UNFINISHED in contents.sizes:
        inspection.faults.append(Fault(UNFINISHED, "the copy is not finished; copy once more"))
    commits, jobs = contents.commits(), contents.jobs()
    inspection.commits = sum(body is not None for body in commits.values())
    inspection.fences, inspection.jobs = len(commits) - inspection.commits, len(jobs)
    inspection.faults += contents.faults
    outputs = _true_outputs(contents, commits, inspection)
    inspection.outputs = len(outputs)
    erased = {folder for folder in outputs if f"{folder}/{WITHDRAWN}" in contents.sizes}
    inspection.withdrawn = len(erased)
    _check_commits(contents, commits, inspection)
    for folder in outputs:
        inspection.faults += _lineage_faults(contents, folder, jobs)
    whole = [folder for folder in outputs if folder not in erased]
    _check_files(contents, whole, inspection, say)
    return inspection


def require_store(contents: Contents) -> None:
    """Refuse a folder that is no store: nothing of it could be wrong.

    Raises:
        InputError: it has neither a marker nor an output.
    """
    known = MARKER in contents.sizes or UNFINISHED in contents.sizes or contents.manifests
    if not known:
        raise InputError(contents.root, "is no store", "name the root of a store")


def sha256_of(uri: str) -> str:
    """SHA-256 of a file of a store, read piece by piece.

    Raises:
        NotFoundInStoreError: there is no such file.
        StorePermissionError, StoreUnavailableError: it cannot be read.
    """
    files, path = store.filesystem(uri)
    digest = hashlib.sha256()
    try:
        with files.open_input_stream(path) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    except FileNotFoundError as exc:
        raise NotFoundInStoreError(uri, "does not exist", "check the location") from exc
    except PermissionError as exc:
        raise StorePermissionError(uri, "permission denied", "give the right to read") from exc
    except OSError as exc:
        raise StoreUnavailableError(uri, f"cannot be read ({exc})", "try again") from exc
    return digest.hexdigest()


def side_by_side(act: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Results of an action on each item, in their order; the first error ends it."""
    pool = ThreadPoolExecutor(READERS)
    try:
        yield from pool.map(act, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _true_outputs(
    contents: Contents, commits: Mapping[str, dict[str, Any] | None], inspection: Inspection
) -> list[str]:
    """Folders that their commit names."""
    outputs = []
    for folder, manifest in contents.manifests.items():
        attempt = contents.path(manifest.commit).removesuffix(f"/{commit.COMMIT}")
        body = commits.get(attempt)
        if body is not None and contents.uri(folder) in body["outputs"].values():
            outputs.append(folder)
        elif body is not None:
            inspection.faults.append(Fault(folder, f"{attempt} has committed other outputs"))
        # Its attempt was fenced, or died before its end; a commit that cannot be read is a fault
        # of its own.
        elif attempt in commits or f"{attempt}/{commit.COMMIT}" not in contents.sizes:
            inspection.uncommitted += 1
    return outputs


def _check_commits(
    contents: Contents, commits: Mapping[str, dict[str, Any] | None], inspection: Inspection
) -> None:
    folders = {path.rsplit("/", 1)[0] for path in contents.sizes}
    for attempt, body in commits.items():
        for name, uri in (body or {"outputs": {}})["outputs"].items():
            folder = contents.path(uri)
            if f"{folder}/{MANIFEST}" in contents.sizes:
                continue
            # A clean-up takes an output as a whole; what stands without its manifest lost it.
            if any(each == folder or each.startswith(f"{folder}/") for each in folders):
                rule = f"has lost its manifest; {attempt} has committed it as {name}"
                inspection.faults.append(Fault(folder, rule))
            else:
                inspection.removed += 1


def _lineage_faults(
    contents: Contents, folder: str, jobs: Mapping[str, dict[str, Any]]
) -> Iterator[Fault]:
    """What an output's lineage says, against its job and the manifests that this leads to."""
    manifest = contents.manifests[folder]
    attempt = contents.path(manifest.commit).rsplit("/", 1)[0]
    job = jobs.get(attempt)
    if job is None:
        if f"{attempt}/{JOB}" not in contents.sizes:
            yield Fault(folder, f"what it was made from is not known: {attempt} has no {JOB}")
        return
    recipe = json.dumps(job.get("recipe"), sort_keys=True).encode()
    if hashlib.sha256(recipe).hexdigest() != manifest.lineage.recipe:
        yield Fault(folder, f"was made by another recipe than {attempt} was told")
    if set(job["inputs"]) != set(manifest.lineage.inputs):
        yield Fault(folder, f"was made from other inputs than {attempt} was told")
        return
    for name, place in job["inputs"].items():
        # Posts and small files beside runs have no manifest: their digests are notes.
        if not OUTPUT.fullmatch(f"{place}/{MANIFEST}"):
            continue
        parent = contents.manifests.get(place)
        if f"{place}/{MANIFEST}" not in contents.sizes:
            yield Fault(folder, f"its input {name}, {place}, is gone")
        elif parent is not None and parent.digest() != manifest.lineage.inputs[name]:
            yield Fault(folder, f"its input {name}, {place}, is not what it was made from")


def _check_files(
    contents: Contents,
    outputs: Iterable[str],
    inspection: Inspection,
    say: Callable[[str], object],
) -> None:
    wanted: dict[str, FileEntry] = {}
    for folder in outputs:
        for path, entry in contents.entries(folder):
            # A shard is named by many versions, and read once.
            before = wanted.setdefault(path, entry)
            if (before.size, before.sha256) != (entry.size, entry.sha256):
                inspection.faults.append(Fault(path, f"{folder} names other bytes than others do"))
    progress = Progress("files", len(wanted), say)

    def fault(item: tuple[str, FileEntry]) -> Fault | None:
        path, entry = item
        size = contents.sizes.get(path)
        if size != entry.size:
            has = "is missing" if size is None else f"has {size} bytes"
            return Fault(path, f"{has}, must have {entry.size}")
        try:
            same = sha256_of(contents.uri(path)) == entry.sha256
        except NotFoundInStoreError:
            return Fault(path, "is missing")
        return None if same else Fault(path, "differs from its manifest")

    for result in side_by_side(fault, wanted.items()):
        progress.add([None])
        if result is not None:
            inspection.faults.append(result)
    inspection.named, inspection.bytes = len(wanted), sum(e.size for e in wanted.values())
    manifests = {f"{folder}/{MANIFEST}" for folder in output_folders(contents.sizes)}
    inspection.others = len(contents.sizes.keys() - wanted.keys() - manifests)
    progress.close()
