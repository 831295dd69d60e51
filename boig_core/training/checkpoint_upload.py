"""One checkpoint on its way to the store: each rank's files and their list, then rank 0's marker,
then older checkpoints go.

The threads of the ranks meet in the store alone, since collectives belong to the training. Leaves
out: when to write a checkpoint and how to find one again (see `checkpoint`).
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from boig_core.errors import BoigError, InfrastructureError
from boig_core.observability.logs import get_logger
from boig_core.storage import control, store
from boig_core.storage.manifest import FileEntry, sha256_file
from boig_core.training.checkpoint_marker import COMPLETE, MARKER
from boig_core.training.ranks import rank

KEPT: Final = 2
"""Checkpoints of an attempt that stay: the newest, and the one before in case that is damaged."""
LONGEST_POLL_S: Final = 2.0
log = get_logger(__name__)


class Upload:
    """One rank's part of a checkpoint on its way to the store, in a thread.

    Attributes:
        sent: set when this rank's files and their list are in the store.
        marked: set, on rank 0, when the checkpoint is complete.
        ended: to be set when nobody waits any more; rank 0 then no longer waits for the others.
    """

    def __init__(self, local: Path, uri: str, marker: Mapping[str, Any]) -> None:
        self.sent: Future[None] = Future()
        self.marked: Future[None] = Future()
        self.ended = threading.Event()
        self._local, self._uri, self._marker = local, uri, marker
        self._data = store.join(uri, marker["folder"])
        self._rank = rank()
        # A daemon: a training that failed elsewhere must end, and rank 0 would wait for ranks that
        # are gone.
        threading.Thread(target=self._run, name="boig-checkpoint", daemon=True).start()

    def _run(self) -> None:
        if _settle(self.sent, self._send) and self._rank == 0:
            _settle(self.marked, self._mark)

    def _send(self) -> None:
        try:
            files = [
                FileEntry(
                    path=p.relative_to(self._local).as_posix(),
                    size=p.stat().st_size,
                    sha256=sha256_file(p),
                )
                for p in sorted(self._local.rglob("*"))
                if p.is_file() and p.suffix != ".py"  # DeepSpeed adds conversion scripts
            ]
            for entry in files:
                store.upload_file(
                    self._local / entry.path, store.join(self._data, entry.path), move=True
                )
        finally:
            shutil.rmtree(self._local, ignore_errors=True)
        # Last: the list says that each file in it is there.
        store.write_bytes(
            self._part(self._rank), json.dumps([entry.model_dump() for entry in files]).encode()
        )

    def _mark(self) -> None:
        files: dict[str, Any] = {}
        for other in range(self._marker["workers"]):
            pause = 0.05
            while not store.exists(self._part(other)):
                if self.ended.wait(pause):
                    raise InfrastructureError(
                        self._part(other), "never came", "see the log of that rank"
                    )
                pause = min(2 * pause, LONGEST_POLL_S)
            part = control.read(
                self._part(other), tuple[FileEntry, ...], "a list of files", "see that rank's log"
            )
            files |= {entry.path: entry.model_dump() for entry in part}
        store.write_bytes(
            store.join(self._uri, COMPLETE),
            json.dumps({**self._marker, "files": list(files.values())}).encode(),
        )
        # After the marker, since until then older ones are all there is. This one counts from now
        # on, whether or not the old ones can be removed.
        try:
            _remove_before(self._uri)
        except BoigError as exc:
            log.warning("old checkpoints stay: %s", exc)

    def _part(self, rank: int) -> str:
        return store.join(self._data, f"part-{rank:05d}.json")


def _settle(future: Future[None], act: Callable[[], None]) -> bool:
    """Run something and leave its end, good or bad, in a future; says whether it was good."""
    try:
        act()
    except BaseException as exc:
        future.set_exception(exc)
        return False
    future.set_result(None)
    return True


def _remove_before(uri: str) -> None:
    """Remove what is older than a checkpoint and the complete one before it; markers first, so that
    nothing torn looks whole."""
    folder, newest = uri.rsplit("/", 1)[0], _step(store.name(uri))
    files = [path for path, _ in store.list_files(folder) if _step(path) <= newest]
    kept = sorted(_step(path) for path in files if MARKER.fullmatch(path))[-KEPT:]
    for path in sorted(
        (path for path in files if 0 <= _step(path) < newest and _step(path) not in kept),
        key=_is_no_marker,
    ):
        store.delete_file(store.join(folder, path))


def _step(path: str) -> int:
    """Step of a checkpoint's folder or file; -1 for what belongs to no checkpoint of this name."""
    match = re.match(r"step-(\d{1,12})(/|$)", path)
    return int(match[1]) if match else -1


def _is_no_marker(path: str) -> bool:
    return not MARKER.fullmatch(path)
