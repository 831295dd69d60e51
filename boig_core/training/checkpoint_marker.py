"""The marker of a checkpoint: ``complete.json``, written last, without which it does not count.

It may come from elsewhere, or be damaged. Leaves out: who writes it (see `checkpoint_upload`) and
what becomes of it (see `checkpoint`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from boig_core.errors import CorruptError, InputError
from boig_core.storage import control, store
from boig_core.storage.manifest import FileEntry, WentOnFrom, code_version
from boig_core.training.work import differences

COMPLETE: Final = "complete.json"
FORMAT: Final = 5
"""Layout of what is written and read: from 4 on, the state of a training is data alone; from 5 on,
the marker says field by field of which work it is, and of which version of boig."""
MARKER: Final = re.compile(rf"(step-(\d{{1,12}}))/{re.escape(COMPLETE)}")
"""Path of a marker below the folder of a training's checkpoints."""
_OLDER: Final = "an older checkpoint is used"


class CheckpointMarker(BaseModel):
    """Content of ``complete.json``.

    Attributes:
        format: its layout.
        step: steps done.
        work: what is trained on what, by field.
        recipe: digest of the whole recipe.
        code: version of boig that wrote it.
        went_on_from: what its attempt has gone on from, as in a manifest.
        folder: name of the folder beside it that has the files.
        state: of the loop.
        files: of all ranks, below that folder.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[5]
    step: int = Field(ge=0)
    work: dict[str, Any]
    recipe: str
    code: str
    went_on_from: tuple[WentOnFrom, ...]
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


def steps_below(attempt: str) -> dict[str, int]:
    """The furthest complete checkpoint of each training of an attempt, by the training's name,
    which is empty where there is one; empty: there is none."""
    steps: dict[str, int] = {}
    for path, _ in store.list_files(store.join(attempt, "checkpoints")):
        name, _, marker = path.rpartition("/step-")
        if match := MARKER.fullmatch(f"step-{marker}" if name else path):
            steps[name] = max(int(match[2]), steps.get(name, 0))
    return steps


def read_marker(uri: str) -> CheckpointMarker:
    """The marker of a checkpoint.

    Raises:
        NotFoundInStoreError: it has none.
        CorruptError: it cannot be read, or is of a newer format.
        InputError: it is of an older format, which does not say enough, or whose files could run
            code as they are opened.
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
            f"has format {number} of an older version of boig, which is not read any more",
            "end this run with the version that began it, or start a new one",
        )
    return control.validated(target, CheckpointMarker, tree, what, _OLDER)


def difference(
    marker: CheckpointMarker,
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    any_version: bool,
) -> str:
    """How a training differs from the one that left a checkpoint; empty: it may go on from it.

    Args:
        marker: of the checkpoint.
        fields: what the training computes, by field.
        defaults: of fields that an older version does not know.
        any_version: whether another version of boig may have left it.
    """
    code = code_version()
    same_version = marker.code == code
    version = [] if same_version or any_version else [f"boig was {marker.code} and is {code}"]
    fields_that_differ = differences(marker.work, fields, {} if same_version else defaults)
    return ", ".join([*version, *fields_that_differ])
