"""Retention: what lies in a store although no manifest, promoted model or recent run refers to it.

Marks from the roots and sweeps the rest. Roots are the promoted models with their reports, the
newest output of each family, and all that runs of the last days read or wrote; what a kept output
was made from is kept as well. Only files older than these days go. Leaves out the caches of
perception and rewards, which save more than they take, and who is promoted (see
`orchestration.promotion.registry`).
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from boig_core.errors import CorruptError, InputError
from boig_core.storage import commit, store
from boig_core.storage.manifest import MANIFEST, Manifest, read_written, resolve
from boig_core.storage.runs import ATTEMPT, DECISION
from boig_core.storage.store import File

# Blobs and staging lie where versions do, and belong to all versions of a dataset: see `_SHARED`.
OUTPUT: Final = re.compile(
    r"(?P<family>(?:datasets|models|evaluations)/[^/]+|reports)/(?P<version>(?!blobs/|staging/)[^/]+)/.+"
)
"""Path of a file of an output, below the root of a store."""
_SHARED: Final = re.compile(r"(?P<dataset>datasets/[^/]+)/(?P<kind>blobs|staging)/.+")
_DAY_S: Final = 86_400.0

Reason = Literal["output", "shard", "staging index", "checkpoints", "attempt", "run"]


@dataclass(frozen=True)
class Garbage:
    """Files that go together.

    Attributes:
        reason: what they were.
        uri: their folder.
        files: URIs in the order in which they are to go: a manifest first, so that half an output
            is none.
        bytes: their size.
    """

    reason: Reason
    uri: str
    files: tuple[str, ...]
    bytes: int


class _Store:
    """One listing of a store, by what its files belong to; paths are relative to ``root``."""

    def __init__(self, root: str, before: float) -> None:
        self.root, self.before = root, before
        self.outputs: dict[str, list[File]] = defaultdict(list)
        self.shared: dict[tuple[str, str], list[File]] = defaultdict(list)
        self.attempts: dict[str, list[File]] = defaultdict(list)
        self.runs: dict[str, list[File]] = defaultdict(list)
        for file in store.list_with_times(root):
            if match := OUTPUT.fullmatch(file.path):
                self.outputs[f"{match['family']}/{match['version']}"].append(file)
            elif match := _SHARED.fullmatch(file.path):
                self.shared[match["dataset"], match["kind"]].append(file)
            elif file.path.startswith("runs/"):
                inside = ATTEMPT.fullmatch(file.path.removeprefix("runs/"))
                if inside:
                    self.attempts[
                        f"runs/{inside['run']}/{inside['task']}/attempt-{inside['attempt']}"
                    ].append(file)
                else:
                    self.runs["/".join(file.path.split("/")[:3])].append(file)

    def old(self, files: Iterable[File]) -> bool:
        """Whether all were written before the days that count."""
        return all(file.modified < self.before for file in files)

    def json(self, path: str) -> Any:
        """Content of a control file.

        Raises:
            CorruptError: it cannot be read: what it refers to is unknown, so nothing may be
                removed.
        """
        try:
            return json.loads(store.read_bytes(store.join(self.root, path)))
        except ValueError as exc:
            raise CorruptError(
                store.join(self.root, path),
                "is not valid JSON",
                "restore it, or remove its folder by hand",
            ) from exc

    def garbage(
        self, reason: Reason, folder: str, files: Sequence[File], first: str = ""
    ) -> Garbage:
        """Files of a folder, the one named ``first`` at the front."""
        ordered = sorted(files, key=lambda file: (file.path != f"{folder}/{first}", file.path))
        uris = tuple(store.join(self.root, file.path) for file in ordered)
        return Garbage(
            reason, store.join(self.root, folder), uris, sum(file.size for file in files)
        )


def find_garbage(root: str, promoted: Collection[str], days: float) -> list[Garbage]:
    """What may go, in the order in which it must go: outputs before the commits that make them
    true.

    Args:
        root: of the store.
        promoted: URIs of outputs that the registry's aliases name.
        days: younger files stay, and runs with a younger file are taken for live.

    Raises:
        InputError: a promoted output is not in this store: the registry belongs to another.
        CorruptError: a manifest or a job that cannot be read.
    """
    root = store.normalize(root)
    seen = _Store(root, time.time() - days * _DAY_S)
    manifests = {
        folder: _read_manifest(root, folder)
        for folder, files in seen.outputs.items()
        if f"{folder}/{MANIFEST}" in _paths(files)
    }
    kept = _closure(_roots(seen, manifests, promoted), manifests)
    garbage = [
        seen.garbage("output", folder, files, first=MANIFEST)
        for folder, files in seen.outputs.items()
        if folder not in kept and seen.old(files)
    ]
    garbage += _loose_shards(
        seen, manifests, kept | (set(seen.outputs) - {_path(root, each.uri) for each in garbage})
    )
    return [
        *garbage,
        *_over(
            seen, {_path(root, manifests[folder].commit) for folder in kept if folder in manifests}
        ),
    ]


def summary(garbage: Iterable[Garbage]) -> Iterator[str]:
    """What goes, for a terminal and a task's log: each folder below its numbers, then the sum."""
    files = size = 0
    for each in garbage:
        yield f"{each.reason:13} {len(each.files):7,} files {each.bytes / 2**20:12,.1f} MiB"
        yield f"    {each.uri}"
        files, size = files + len(each.files), size + each.bytes
    yield f"{files:,} files, {size / 2**20:,.1f} MiB"


def clean(root: str, promoted: Collection[str], days: float) -> list[Garbage]:
    """Find garbage, look once more, and remove what was garbage both times: a run may have begun in
    between.

    It may be broken off and done again.

    Returns:
        What was removed.
    """
    first = {each.uri: each for each in find_garbage(root, promoted, days)}
    # Equal as a whole: a folder in which a file has come or changed meanwhile is left alone.
    again = [each for each in find_garbage(root, promoted, days) if first.get(each.uri) == each]
    for uri in (uri for each in again for uri in each.files):
        store.delete_file(uri)
    return again


def _roots(
    seen: _Store, manifests: Mapping[str, Manifest], promoted: Collection[str]
) -> Iterator[str]:
    for uri in promoted:
        path = _path(seen.root, uri)
        # Under a registry of another store, all models of this one would pass for unused.
        if path not in manifests:
            raise InputError(
                uri,
                f"is promoted and not in the store {seen.root}",
                "give the store that the registry's models lie in",
            )
        yield path
    newest: dict[str, tuple[float, str]] = {}
    for folder in manifests:
        family = folder.rsplit("/", 1)[0]
        modified = max(file.modified for file in seen.outputs[folder])
        newest[family] = max(newest.get(family, (0.0, "")), (modified, folder))
    yield from (folder for _, folder in newest.values())
    yield from (folder for folder, files in seen.outputs.items() if not seen.old(files))
    for folder, files in seen.attempts.items():
        if not seen.old(files):
            yield from _named_by(seen, folder, files)


def _named_by(seen: _Store, folder: str, files: Iterable[File]) -> Iterator[str]:
    """Outputs that an attempt reads or has made."""
    paths = _paths(files)
    if f"{folder}/job.json" in paths:
        yield from (
            _path(seen.root, uri) for uri in seen.json(f"{folder}/job.json")["inputs"].values()
        )
    if f"{folder}/{commit.COMMIT}" in paths:
        yield from (
            _path(seen.root, uri)
            for uri in seen.json(f"{folder}/{commit.COMMIT}").get("outputs", {}).values()
        )


def _closure(roots: Iterable[str], manifests: Mapping[str, Manifest]) -> set[str]:
    """The roots and all that they were made from."""
    # Lineage names digests, not folders. Outputs of equal content share one, and each of them may
    # be the one that was read.
    by_digest: dict[str, list[str]] = defaultdict(list)
    for folder, manifest in manifests.items():
        by_digest[manifest.digest()].append(folder)
    kept: set[str] = set()
    waiting = list(roots)
    while waiting:
        folder = waiting.pop()
        if folder not in kept:
            kept.add(folder)
            inputs = manifests[folder].lineage.inputs.values() if folder in manifests else ()
            waiting += [parent for digest in inputs for parent in by_digest[digest]]
    return kept


def _loose_shards(
    seen: _Store, manifests: Mapping[str, Manifest], kept: Collection[str]
) -> Iterator[Garbage]:
    """Shards that no kept dataset names, and indexes of ingestions that never ended.

    A shard is written once for all versions, and one under way may count on a shard that is old:
    while a dataset has young indexes or young attempts that read or make datasets, its shards stay.
    """
    named = {
        _path(seen.root, resolve(store.join(seen.root, f), e.path))
        for f in kept
        if f in manifests
        for e in manifests[f].files
    }
    busy = any(
        re.search(r"/(ingest|perceive)(/\d+)?/attempt-", folder) and not seen.old(files)
        for folder, files in seen.attempts.items()
    )
    for (dataset, kind), files in sorted(
        seen.shared.items(), key=lambda item: item[0][1] == "blobs"
    ):  # an index counts on its shards
        if busy or not seen.old(seen.shared.get((dataset, "staging"), ())):
            continue
        loose = [file for file in files if file.path not in named and seen.old([file])]
        if loose:
            yield seen.garbage(
                "shard" if kind == "blobs" else "staging index", f"{dataset}/{kind}", loose
            )


def _over(seen: _Store, commits: Collection[str]) -> Iterator[Garbage]:
    """Of runs that are over: attempts whose outputs are gone, checkpoints of the others, and what
    lies beside attempts that are gone.

    Args:
        seen: the store.
        commits: paths of the commits that kept outputs need.
    """
    alive = set()
    for folder, files in seen.attempts.items():
        needed = f"{folder}/{commit.COMMIT}" in commits
        if needed or not seen.old(files):
            # The run's folder, runs/DAG/RUN: what lies beside its attempts stays with them.
            alive.add("/".join(folder.split("/")[:3]))
        if not seen.old(files):
            continue
        if not needed:
            yield seen.garbage("attempt", folder, files)
        elif checkpoints := [
            file for file in files if file.path.startswith(f"{folder}/checkpoints/")
        ]:
            # The commit is needed by what it made; checkpoints only served to reach it.
            yield seen.garbage("checkpoints", f"{folder}/checkpoints", checkpoints)
    for run, files in seen.runs.items():
        # Who promoted what, and why, is asked for years later.
        decided = f"{run}/{DECISION}" in _paths(files)
        if run not in alive and not decided and seen.old(files):
            yield seen.garbage("run", run, files)


def _read_manifest(root: str, folder: str) -> Manifest:
    return read_written(store.join(root, folder))


def _paths(files: Iterable[File]) -> set[str]:
    return {file.path for file in files}


def _path(root: str, uri: str) -> str:
    """Path below the root; a location elsewhere stays as it is and matches nothing."""
    return uri.rstrip("/").removeprefix(f"{root.rstrip('/')}/")
