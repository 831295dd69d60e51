"""A copy of a store, on a disk or on S3: resumable, every file verified, complete or not a store.

What makes outputs true comes last: all other files, then the commits, then the manifests, the
oldest first. So a copy that was cut holds no half output. Until its end it says at its root that it
is unfinished. Nothing is ever removed from it. Leaves out: a store that changes meanwhile, whose
newest files come with the next copy.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boig_core.errors import CorruptError, InfrastructureError, InputError, NotFoundInStoreError
from boig_core.observability.progress import Progress
from boig_core.storage import commit, places, store
from boig_core.storage.check import UNFINISHED, Contents, require_store, sha256_of, side_by_side
from boig_core.storage.manifest import MANIFEST, sha256_file
from boig_core.storage.marker import MARKER
from boig_core.storage.paths import printable
from boig_core.storage.store import File

_LEFT_OUT: Final = (".probe/", ".trash/")


@dataclass
class Copied:
    """What a copy has done.

    Attributes:
        files: that the copy holds now.
        bytes: their size.
        copied: files that were written by this call.
        copied_bytes: their size.
        gone: files that the store has removed meanwhile, such as old checkpoints.
    """

    files: int = 0
    bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    gone: int = 0

    def add(self, size: int | None, written: bool) -> None:
        """Count a file; ``size`` None: it is gone."""
        if size is None:
            self.gone += 1
            return
        self.files, self.bytes = self.files + 1, self.bytes + size
        if written:
            self.copied, self.copied_bytes = self.copied + 1, self.copied_bytes + size

    def line(self) -> str:
        """For a terminal."""
        line = (
            f"{self.files:,} files, {self.bytes / 2**20:,.1f} MiB;"
            f" {self.copied:,} of them copied now, {self.copied_bytes / 2**20:,.1f} MiB"
        )
        return line + (f"; {self.gone:,} were removed meanwhile" if self.gone else "")


def copy_store(source: str, target: str, say: Callable[[str], object]) -> Copied:
    """Copy a store, or finish or refresh a copy of it.

    Args:
        source: root of the store.
        target: root of the copy: empty, or a copy of this store.
        say: takes lines of progress.

    Raises:
        InputError: the source is no store, or has a key that leads out of it; or the target holds
            something else.
        CorruptError: a manifest or a file of the source is not what it must be.
        InfrastructureError: the target does not keep what it is given.
    """
    source, target = store.normalize(source), store.normalize(target)
    if f"{source}/".startswith(f"{target}/") or f"{target}/".startswith(f"{source}/"):
        raise InputError(target, f"overlaps with {source}", "copy to another place")
    contents = Contents(source)
    if contents.faults:
        fault = contents.faults[0]
        raise CorruptError(contents.uri(fault.place), fault.rule, "see `boig store check`")
    _require_store(contents)
    listed = [file for file in contents.files if not file.path.startswith(_LEFT_OUT)]
    if unfit := [file.path for file in listed if not places.is_place(file.path)]:
        # A key of S3 may be anything, and on a disk it would lead elsewhere.
        raise InputError(printable(unfit[0]), "cannot be copied", "rename or remove that key")
    there = _claim(contents, target)
    hashes = {
        path: entry.sha256
        for folder in contents.manifests
        for path, entry in contents.entries(folder)
    }
    copied = Copied()
    progress = Progress("files", len(listed), say)

    def bring(file: File) -> tuple[int | None, bool]:
        return _bring(contents, target, file, hashes.get(file.path), there.get(file.path))

    for group in _in_order(listed):
        for size, written in side_by_side(bring, group):
            copied.add(size, written)
            progress.add([None])
    store.delete_file(store.join(target, UNFINISHED))
    progress.close()
    return copied


def _require_store(contents: Contents) -> None:
    if UNFINISHED in contents.sizes:
        raise InputError(contents.root, "is itself an unfinished copy", "finish it first")
    require_store(contents)


def _claim(contents: Contents, target: str) -> dict[str, int]:
    """Make sure that the target is empty or a copy of this store, and note that it is unfinished;
    returns the sizes of its files."""
    there = dict(store.list_files(target))
    note = json.dumps({"copy_of": contents.root}, indent=1).encode()
    if UNFINISHED in there:
        ours = store.read_bytes(store.join(target, UNFINISHED)) == note
    else:
        # The marker has its store's own name, so equal markers are those of one store.
        ours = MARKER in there and MARKER in contents.sizes and _same_marker(contents, target)
    if there and not ours:
        raise InputError(
            target,
            f"holds something else than a copy of {contents.root}, such as {min(there)}",
            "copy to an empty place",
        )
    store.write_bytes(store.join(target, UNFINISHED), note)
    return there


def _same_marker(contents: Contents, target: str) -> bool:
    return store.read_bytes(contents.uri(MARKER)) == store.read_bytes(store.join(target, MARKER))


def _in_order(files: Iterable[File]) -> Iterator[list[File]]:
    """Files in the groups in which they are to come."""
    groups: list[list[File]] = [[], [], [], []]
    for file in files:
        groups[_turn(file.path)].append(file)
    # What an output was made from is older than the output.
    return (sorted(group, key=lambda file: file.modified) for group in groups)


def _turn(path: str) -> int:
    """Group of a file; any that is called as what comes last may come last."""
    if path == MARKER:
        return 3
    if path.startswith("runs/"):
        return 1 if store.name(path) == commit.COMMIT else 0
    return 2 if store.name(path) == MANIFEST else 0


def _bring(
    contents: Contents, target: str, file: File, sha256: str | None, size_there: int | None
) -> tuple[int | None, bool]:
    """Copy a file unless the very same is there.

    Args:
        contents: of the source.
        target: root of the copy.
        file: of the source.
        sha256: that a manifest names; None: no manifest names the file.
        size_there: of the file in the copy; None: there is none.

    Returns:
        Its size, None if the source has removed it meanwhile; and whether it was written.
    """
    source, goal = contents.uri(file.path), store.join(target, file.path)
    try:
        if size_there == file.size and sha256_of(goal) == (sha256 or sha256_of(source)):
            return file.size, False
        size = _copy_file(source, goal, sha256)
        keep_time(goal, file.modified)
        return size, True
    except NotFoundInStoreError:
        if sha256 is not None:
            raise
        return None, False


def _copy_file(source: str, goal: str, sha256: str | None) -> int:
    with _on_this_disk(source) as local:
        actual, size = sha256_file(local), local.stat().st_size
        if sha256 not in (None, actual):
            raise CorruptError(source, "differs from its manifest", "see `boig store check`")
        store.upload_file(local, goal)
    if sha256_of(goal) != actual:
        raise InfrastructureError(
            goal, "does not hold what was copied to it", "copy once more; what is there stays"
        )
    return size


def keep_time(uri: str, modified: float) -> None:
    """Let a file on a disk keep the time at which it was first written: by it `boig clean` knows
    what is old, and runs have their order. S3 keeps times of its own."""
    if not store.is_s3(uri):
        os.utime(store.normalize(uri), (modified, modified))


@contextmanager
def _on_this_disk(uri: str) -> Iterator[Path]:
    """A file of a store as a local one, which does not change meanwhile."""
    with tempfile.TemporaryDirectory(prefix="boig-copy-") as scratch:
        local = Path(scratch) / "file"
        store.download_file(uri, local)
        yield local
