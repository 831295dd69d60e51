"""Withdrawn outputs: their files were erased because a post was forgotten, and only the manifest is
left, beside a note that says so.

The manifest holds counts and hashes, and what was made from the output is verified by it, so it
stays; whoever wants to read the files is told what takes their place. Leaves out: what is withdrawn
and when (see `boig_core.data.forgetting.erasure`).
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from boig_core.errors import CorruptError, NotFoundInStoreError, WithdrawnError
from boig_core.storage import control, places, store

WITHDRAWN: Final = "withdrawn.json"
_WHAT: Final = "a note of a withdrawal"
_REMEDY: Final = "run the `boig forget` that wrote it again"


class Withdrawal(BaseModel):
    """Content of ``withdrawn.json``; nothing in it says whose posts it was about.

    Attributes:
        place: of the output's folder below the root of the store.
        at: when, ISO-8601 in UTC.
        why: the command that has withdrawn it.
        erasure: name of the erasure that it belongs to; the same for all that went with it.
        successor: place of what takes its place; None: nothing does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    place: str
    at: str
    why: Literal["forget"] = "forget"
    erasure: str
    successor: str | None


def write(root: str, note: Withdrawal) -> None:
    """Withdraw an output of the store at ``root``."""
    uri = store.join(root, note.place, WITHDRAWN)
    store.write_bytes(uri, note.model_dump_json(indent=1).encode())


def read(uri: str) -> Withdrawal | None:
    """The note of an output; None: it is not withdrawn.

    Raises:
        CorruptError: the note cannot be read, or belongs to another output.
    """
    target = store.join(uri, WITHDRAWN)
    try:
        note = control.read(target, Withdrawal, _WHAT, _REMEDY)
    except NotFoundInStoreError:
        return None
    places.root_of(uri, note.place)
    return note


def successor_of(uri: str) -> str | None:
    """What takes an output's place today: itself unless it was withdrawn, else the end of the chain
    of successors; None: nothing does.

    Raises:
        CorruptError: a note cannot be read, or successors form a ring.
    """
    seen: set[str] = set()
    at: str | None = store.normalize(uri)
    while at is not None and (note := read(at)) is not None:
        if at in seen:
            raise CorruptError(at, "is its own successor", _REMEDY)
        seen.add(at)
        root = places.root_of(at, note.place)
        at = None if note.successor is None else store.join(root, places.checked(note.successor))
    return at


def require_current(uri: str) -> None:
    """Refuse an output whose files were erased.

    Raises:
        WithdrawnError: it was withdrawn; the message names what to use instead.
        CorruptError: its note cannot be read.
    """
    note = read(uri)
    if note is None:
        return
    instead = successor_of(uri)
    raise WithdrawnError(
        uri,
        f"was withdrawn on {note.at[:10]} because a post was forgotten",
        f"use {instead}" if instead else "make it again: nothing has taken its place",
    )
