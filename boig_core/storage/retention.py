"""Retention: what lies in a store although no manifest, promoted model or recent run refers to it.

Marks from the roots and moves the rest to the trash, which a later clean-up empties. Roots are the
promoted models with their reports, the newest output of each family, and all that runs of the last
days read or wrote; what a kept output was made from is kept as well. Only files older than these
days go, and only what is boig's (see `inventory`). Leaves out the caches of perception and rewards,
which save more than they take, and who is promoted (see `orchestration.promotion.registry`).
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from boig_core.errors import InputError
from boig_core.storage import marker, store, trash
from boig_core.storage.inventory import Inventory, is_of_ingestion, paths_of
from boig_core.storage.job import JOB
from boig_core.storage.manifest import MANIFEST, Manifest
from boig_core.storage.paths import printable
from boig_core.storage.runs import DECISION
from boig_core.storage.store import File

_CLOCKS_APART_S: Final = 600.0
"""By how much this machine's clock may differ from the store's."""
_SHOWN: Final = 5
"""Foreign files that a summary names."""

Reason = Literal["output", "shard", "staging index", "checkpoints", "attempt", "run"]


@dataclass(frozen=True)
class Garbage:
    """Files that go together.

    Attributes:
        reason: what they were.
        uri: their folder.
        files: in the order in which they are to go: a manifest first, so that half an output is
            none; the job of an attempt last, since it says whose the others are.
    """

    reason: Reason
    uri: str
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        """Their size."""
        return _size(self.files)


@dataclass(frozen=True)
class Survey:
    """What a look at a store has shown.

    Attributes:
        root: of the store.
        garbage: what may go, in the order in which it must go: outputs before the commits that make
            them true.
        foreign: files that nothing of boig names; they stay.
        waiting: what lies in the trash and stays there for now.
        expired: what lies in the trash and may be removed for good.
        now: the store's time, in seconds since 1970; see `Inventory`.
        before: what was written since is young.
    """

    root: str
    garbage: tuple[Garbage, ...]
    foreign: tuple[File, ...]
    waiting: tuple[trash.Trashed, ...]
    expired: tuple[trash.Trashed, ...]
    now: float
    before: float


def survey(root: str, promoted: Collection[str], days: float) -> Survey:
    """Look at a store: what may go, what is foreign, and what lies in the trash.

    Args:
        root: of the store.
        promoted: URIs of outputs that the registry's aliases name.
        days: younger files stay, and runs with a younger file are taken for live.

    Raises:
        InputError: the folder has no marker, so it may be no store; a promoted output is not in it:
            the registry belongs to another; or the clocks differ, so that ages are not known.
        CorruptError: a manifest or a job that cannot be read.
    """
    root = store.normalize(root)
    marker.require(root)
    seen = Inventory(root, _time(root), days)
    kept = _closure(_roots(seen, promoted), seen.manifests)
    garbage = list(_outputs(seen, kept))
    left = set(seen.outputs) - {seen.path(each.uri) for each in garbage}
    garbage += _loose_shards(seen, kept | left)
    strangers: list[File] = []
    garbage += _over(seen, kept | left, strangers)
    return Survey(
        root,
        tuple(garbage),
        tuple(sorted([*seen.foreign(), *strangers])),
        tuple(entry for entry in seen.trash if not trash.is_over(entry, seen.now)),
        tuple(entry for entry in seen.trash if trash.is_over(entry, seen.now)),
        seen.now,
        seen.before,
    )


def clean(root: str, promoted: Collection[str], days: float) -> Survey:
    """Look twice, and move to the trash what was garbage both times: a run may have begun in
    between. Then remove what has been in the trash for long.

    It may be broken off and done again.

    Returns:
        What was moved, with what stays and what was removed.

    Raises:
        InputError, CorruptError: as `survey`.
    """
    first = {each.uri: each for each in survey(root, promoted, days).garbage}
    again = survey(root, promoted, days)
    moved = []
    # Equal as a whole: a folder in which a file has come or changed meanwhile is left alone.
    for each in (each for each in again.garbage if first.get(each.uri) == each):
        files = tuple(trash.move(again.root, each.files, again.now, again.before))
        moved.append(replace(each, files=files))
    trash.empty(again.root, again.expired)
    return replace(again, garbage=tuple(moved))


def summary(result: Survey) -> Iterator[str]:
    """What goes, for a terminal and a task's log: each folder below its numbers, then the sums."""
    for each in result.garbage:
        yield f"{each.reason:13} {_amount(each.files)}"
        yield f"    {each.uri}"
    yield _amount([file for each in result.garbage for file in each.files]).strip()
    if result.foreign:
        yield f"foreign       {_amount(result.foreign)}: not boig's, so they stay"
        yield from (f"    {printable(file.path)}" for file in result.foreign[:_SHOWN])
    for word, entries in (("waits", result.waiting), ("expired", result.expired)):
        if entries:
            yield f"trash {word:7} {_amount([entry.file for entry in entries])}"


def as_json(result: Survey) -> dict[str, Any]:
    """The same for programs."""
    return {
        "garbage": [
            {
                "reason": each.reason,
                "uri": each.uri,
                "files": [store.join(result.root, file.path) for file in each.files],
                "bytes": each.bytes,
            }
            for each in result.garbage
        ],
        "foreign": {
            **_sums(result.foreign),
            "first": [printable(file.path) for file in result.foreign[:_SHOWN]],
        },
        "trash": {
            "waiting": _sums([entry.file for entry in result.waiting]),
            "expired": _sums([entry.file for entry in result.expired]),
        },
    }


def store_time(root: str) -> float:
    """The store's own time in seconds since 1970: that of a file which is written now."""
    uri = store.join(root, store.PROBE, uuid.uuid4().hex)
    try:
        store.write_bytes(uri, b"")
        return store.modified(uri)
    finally:
        store.delete_file(uri)


def _time(root: str) -> float:
    """The store's time: what this machine's clock says alone would make everything old, were it
    ahead."""
    here, there = time.time(), store_time(root)
    if abs(here - there) > _CLOCKS_APART_S:
        raise InputError(
            f"the clock of this machine ({_date(here)})",
            f"must be that of the store ({_date(there)}) within {_CLOCKS_APART_S / 60:.0f} minutes, or ages are not known",
            "set the one that is wrong",
        )
    return min(here, there)


def _roots(seen: Inventory, promoted: Collection[str]) -> Iterator[str]:
    for uri in promoted:
        path = seen.path(uri)
        # Under a registry of another store, all models of this one would pass for unused.
        if path not in seen.manifests:
            raise InputError(
                uri,
                f"is promoted and not in the store {seen.root}",
                "give the store that the registry's models lie in",
            )
        yield path
    newest: dict[str, tuple[float, str]] = {}
    # Of a withdrawn output the manifest alone is left: it is nobody's newest.
    for folder in (each for each in seen.manifests if not seen.is_withdrawn(each)):
        family = folder.rsplit("/", 1)[0]
        modified = max(file.modified for file in seen.own_of_output(folder))
        newest[family] = max(newest.get(family, (0.0, "")), (modified, folder))
    yield from (folder for _, folder in newest.values())
    yield from (folder for folder, files in seen.outputs.items() if not seen.old(files))
    for folder, files in seen.attempts.items():
        if not seen.old(files):
            yield from seen.named_by(folder)


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


def _outputs(seen: Inventory, kept: Collection[str]) -> Iterator[Garbage]:
    for folder, files in seen.outputs.items():
        if folder not in kept and seen.old(files) and (own := seen.own_of_output(folder)):
            yield _garbage(seen, "output", folder, own, first=MANIFEST)


def _loose_shards(seen: Inventory, kept: Iterable[str]) -> Iterator[Garbage]:
    """Shards that no kept dataset names, and indexes of ingestions that never ended.

    A shard is written once for all versions, and one under way may count on a shard that is old:
    while a dataset has young indexes or young attempts that read or make datasets, its shards stay.
    """
    named = set[str]().union(*(seen.files_named_by(folder) for folder in kept))
    busy = any(
        is_of_ingestion(folder) and not seen.old(files) for folder, files in seen.attempts.items()
    )
    for (dataset, kind), files in sorted(
        seen.shared.items(), key=lambda item: item[0][1] == "blobs"
    ):  # an index counts on its shards
        if busy or not seen.old(seen.shared.get((dataset, "staging"), ())):
            continue
        own = seen.own_of_shared(dataset, files)
        loose = [file for file in own if file.path not in named and seen.old([file])]
        if loose:
            reason: Reason = "shard" if kind == "blobs" else "staging index"
            yield _garbage(seen, reason, f"{dataset}/{kind}", loose)


def _over(seen: Inventory, kept: Iterable[str], strangers: list[File]) -> Iterator[Garbage]:
    """Of runs that are over: attempts whose outputs are gone, checkpoints of the others, and what
    lies beside attempts that are gone.

    Args:
        seen: the store.
        kept: outputs that stay; each needs its commit, or the job that says whose it is.
        strangers: takes in the files of attempts that are not boig's.
    """
    needed = {
        seen.path(seen.manifests[folder].commit).rpartition("/")[0]
        if folder in seen.manifests
        else seen.maker(folder)
        for folder in kept
        if folder in seen.manifests or not seen.old(seen.outputs.get(folder, ()))
    }
    alive = set()
    for folder, files in seen.attempts.items():
        if folder in needed or not seen.old(files):
            # The run's folder, runs/DAG/RUN: what lies beside its attempts stays with them.
            alive.add("/".join(folder.split("/")[:3]))
        if not seen.old(files):
            continue
        if folder not in needed:
            if seen.is_own_attempt(folder):
                yield _garbage(seen, "attempt", folder, files, last=JOB)
            else:
                strangers += files
        elif checkpoints := [
            file for file in files if file.path.startswith(f"{folder}/checkpoints/")
        ]:
            # The commit is needed by what it made; checkpoints only served to reach it.
            yield _garbage(seen, "checkpoints", f"{folder}/checkpoints", checkpoints)
    for run, files in seen.runs.items():
        # Who promoted what, and why, is asked for years later.
        decided = f"{run}/{DECISION}" in paths_of(files)
        if run not in alive and not decided and seen.old(files) and seen.is_own_run(run):
            yield _garbage(seen, "run", run, files)


def _garbage(
    seen: Inventory,
    reason: Reason,
    folder: str,
    files: Sequence[File],
    first: str = "",
    last: str = "",
) -> Garbage:
    """Files of a folder, the one named ``first`` at the front and ``last`` at the end."""
    ends = {f"{folder}/{first}": -1, f"{folder}/{last}": 1}
    ordered = sorted(files, key=lambda file: (ends.get(file.path, 0), file.path))
    return Garbage(reason, store.join(seen.root, folder), tuple(ordered))


def _size(files: Iterable[File]) -> int:
    return sum(file.size for file in files)


def _sums(files: Collection[File]) -> dict[str, int]:
    return {"files": len(files), "bytes": _size(files)}


def _amount(files: Collection[File]) -> str:
    return f"{len(files):7,} files {_size(files) / 2**20:12,.1f} MiB"


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
