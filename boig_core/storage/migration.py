"""Stores from before schema 2, whose files name locations: rewritten so that they name places.

Rewrites manifests, commits and job files, each whole or not at all, and nothing else. Digests stay,
so lineage and the registry lead where they led. It may be broken off and done again. Leaves out: a
store in which runs are under way, since what an older boig writes meanwhile is of schema 1 again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from boig_core.errors import CorruptError, UserError
from boig_core.observability.progress import Progress
from boig_core.storage import commit, control, manifest, marker, places, store
from boig_core.storage.check import Fault, attempts_with, output_folders, side_by_side
from boig_core.storage.copying import keep_time
from boig_core.storage.job import JOB

_WHAT: Final = ("a control file", "restore the file, or remove its folder by hand")


@dataclass
class Migration:
    """What a migration has done.

    Attributes:
        rewritten: files.
        already: files that were of schema 2 before.
        faults: files that were left as they are, and why.
    """

    rewritten: int = 0
    already: int = 0
    faults: list[Fault] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield from (f"{fault.place}: {fault.rule}" for fault in self.faults)
        yield f"{self.rewritten:,} files rewritten, {self.already:,} were of schema 2 already"
        if self.faults:
            yield f"{len(self.faults)} left as they are"


def migrate_store(root: str, say: Callable[[str], object]) -> Migration:
    """Bring a store to schema 2.

    Args:
        root: of the store; it may be a copy whose files still name the store that they come from.
        say: takes lines of progress.

    Raises:
        StoreUnavailableError, StorePermissionError: the store cannot be read or written.
    """
    root = store.normalize(root)
    # The oldest first: on S3 a file that is rewritten counts as new, and runs keep their order.
    files = sorted(store.list_with_times(root), key=lambda file: file.modified)
    paths = [file.path for file in files]
    jobs = [f"{attempt}/{JOB}" for attempt in attempts_with(paths, JOB)]
    rewrite = partial(_rewrite, root, _former_roots(root, jobs))
    listed = [
        *(f"{folder}/{manifest.MANIFEST}" for folder in output_folders(paths)),
        *(f"{attempt}/{commit.COMMIT}" for attempt in attempts_with(paths, commit.COMMIT)),
        # Last: they alone tell which store a copy comes from, and whoever goes on after a break
        # has to know.
        *jobs,
    ]
    modified = {file.path: file.modified for file in files}
    done, progress = Migration(), Progress("files", len(listed), say)
    for path in listed:
        try:
            if rewrite(path):
                done.rewritten += 1
                keep_time(store.join(root, path), modified[path])
            else:
                done.already += 1
        except CorruptError as exc:
            done.faults.append(Fault(path, f"{exc.rule}; {exc.remedy}"))
        progress.add([None])
    progress.close()
    marker.ensure(root)
    return done


def _former_roots(root: str, jobs: list[str]) -> list[str]:
    """Roots that the store's files may name, the longest first: its own, and those of the stores
    that its jobs ran in."""

    def store_of(path: str) -> str | None:
        try:
            named = control.read_object(store.join(root, path), *_WHAT).get("store")
            return store.normalize(named) if isinstance(named, str) else None
        except UserError:  # told when it is its turn
            return None

    named = {home for home in side_by_side(store_of, jobs) if home is not None}
    return sorted({root, *named}, key=lambda home: (-len(home), home))


def _rewrite(root: str, roots: list[str], path: str) -> bool:
    """Rewrite a file and read it again; False: it is of schema 2, or a fence, which names nothing.

    Raises:
        CorruptError: it cannot be read, or names what the store does not hold.
    """
    uri = store.join(root, path)
    tree = control.read_object(uri, *_WHAT)
    if tree.get("fenced") is True or tree.get("schema_version") == places.SCHEMA:
        return False
    if tree.get("schema_version", 1) != 1:
        places.require_schema(uri, tree, _WHAT[0])
    folder, _, name = path.rpartition("/")
    {manifest.MANIFEST: _manifest, commit.COMMIT: _commit, JOB: _job}[name](
        root, roots, folder, tree
    )
    return True


def _manifest(root: str, roots: list[str], folder: str, tree: Mapping[str, Any]) -> None:
    uri = store.join(root, folder)
    committed = store.join(root, _placed(uri, tree.get("commit"), roots))
    new = control.validated(
        store.join(uri, manifest.MANIFEST),
        manifest.Manifest,
        {**tree, "schema_version": places.SCHEMA, "place": folder, "commit": committed},
        *_WHAT,
    )
    before = {"meta": {}, **{key: value for key, value in tree.items() if key != "commit"}}
    if hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest() != new.digest():
        raise CorruptError(uri, "would have another digest", "make the output again")
    manifest.write_manifest(new, root)
    manifest.read_written(uri)


def _commit(root: str, roots: list[str], attempt: str, tree: Mapping[str, Any]) -> None:
    uri = store.join(root, attempt)
    outputs = control.validated(uri, dict[str, str], tree.get("outputs"), *_WHAT)
    new = {
        **tree,
        "schema_version": places.SCHEMA,
        "place": attempt if outputs else None,
        "outputs": {name: _placed(uri, at, roots) for name, at in outputs.items()},
    }
    file = control.validated(uri, commit.CommitFile, new, *_WHAT)
    store.write_bytes(store.join(uri, commit.COMMIT), file.model_dump_json(indent=1).encode())
    commit.require_commit(uri)


def _job(root: str, roots: list[str], attempt: str, tree: Mapping[str, Any]) -> None:
    uri = store.join(root, attempt, JOB)
    # The recipe stays as it is: it may be one that this version of boig no longer takes.
    inputs = control.validated(uri, dict[str, str], tree.get("inputs"), *_WHAT)
    task = _placed(uri, tree.get("task"), roots)
    if attempt != commit.attempt_uri(
        task, control.validated(uri, int, tree.get("attempt"), *_WHAT)
    ):
        raise CorruptError(uri, f"is told to be an attempt of {task}", _WHAT[1])
    new = {key: value for key, value in tree.items() if key != "store"} | {
        "schema_version": places.SCHEMA,
        "inputs": {name: _place(at, roots) for name, at in inputs.items()},
        "task": task,
    }
    store.write_bytes(uri, json.dumps(new, indent=1).encode())


def _place(uri: str, roots: list[str]) -> str:
    """Place of a location below one of the roots, else the location itself."""
    found = (places.place_of(uri, root) for root in roots)
    return next((place for place in found if places.is_place(place)), uri)


def _placed(uri: str, named: Any, roots: list[str]) -> str:
    """Place of what must lie in the store.

    Args:
        uri: the file that names it; stands in the error.
        named: its location.
        roots: of the store, now and before.

    Raises:
        CorruptError: it lies elsewhere.
    """
    place = (
        _place(named, roots) if isinstance(named, str) and named.startswith(("/", "s3://")) else ""
    )
    if not places.is_place(place):
        raise CorruptError(uri, f"names {named}, which lies outside of the store", _WHAT[1])
    return place
