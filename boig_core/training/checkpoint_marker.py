"""The marker of a checkpoint: ``complete.json``, written last, without which it does not count.

It may come from elsewhere, or be damaged. Leaves out: who writes it (see `checkpoint_upload`) and
what becomes of it (see `checkpoint`).
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from boig_core.errors import CorruptError, InputError
from boig_core.storage import control, store
from boig_core.storage.manifest import FileEntry

COMPLETE: Final = "complete.json"
FORMAT: Final = 4
"""Layout of what is written and read: from this one on, the state of a training is data alone."""
MARKER: Final = re.compile(rf"(step-(\d{{1,12}}))/{re.escape(COMPLETE)}")
"""Path of a marker below the folder of a training's checkpoints."""
_OLDER: Final = "an older checkpoint is used"


class CheckpointMarker(BaseModel):
    """Content of ``complete.json``.

    Attributes:
        format: its layout.
        step: steps done.
        work: digest of what is trained on what.
        folder: name of the folder beside it that has the files.
        state: of the loop.
        files: of all ranks, below that folder.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[4]
    step: int = Field(ge=0)
    work: str
    folder: str = Field(pattern="^[0-9a-f]+$")
    state: dict[str, Any]
    files: tuple[FileEntry, ...]

    @field_validator("files")
    @classmethod
    def _are_below(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        """An output's files may lie beside it, a checkpoint's may not."""
        if outside := [entry.path for entry in files if entry.path.startswith("../")]:
            raise ValueError(f"{outside[0]} must not lead out of the checkpoint")
        return files


def read_marker(uri: str) -> CheckpointMarker:
    """The marker of a checkpoint.

    Raises:
        NotFoundInStoreError: it has none.
        CorruptError: it cannot be read, or is of a newer format.
        InputError: it is of an older format, whose files could run code as they are opened.
    """
    target, what = store.join(uri, COMPLETE), "the marker of a checkpoint"
    # A state may hold a loss that was not finite.
    tree = control.read_object(target, what, _OLDER, finite=False)
    # Asked first: a newer format may have other fields.
    number = tree.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise CorruptError(target, f"has format {number}, newer than {FORMAT}", _OLDER)
    if isinstance(number, int) and number < FORMAT:
        raise InputError(
            target,
            f"has format {number}; from {FORMAT} on a state is data alone",
            "end this run with the version that began it, or start a new one",
        )
    return control.validated(target, CheckpointMarker, tree, what, _OLDER)
