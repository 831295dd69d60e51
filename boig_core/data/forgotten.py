"""Tombstones: accounts and posts that were forgotten, so that no ingestion brings them back.

    STORE/forgotten/salt.json                     random; made once
    STORE/forgotten/SCOPE/account-HASH.json       one for each account, or `id-HASH.json` for a post
    STORE/forgotten/erasing.json                  there while `boig forget` erases (see `erasure`)

``SCOPE`` is a dataset's name, or ``_store`` for all datasets, also those to come. ``HASH`` is the
SHA-256 of the salt and the name, so that no name stands in a store because it was to go. The salt
lies beside it: whoever can read the store can still try whether a name they think of is among them.
Leaves out: erasing what is there already (see `erasure`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from boig_core.data.posts import Post, Reject
from boig_core.errors import CorruptError, InfrastructureError, InputError, NotFoundInStoreError
from boig_core.storage import control, store

FOLDER: Final = "forgotten"
WHOLE_STORE: Final = "_store"
"""Scope of all datasets; no dataset may be called so."""
ERASING: Final = f"{FOLDER}/erasing.json"
_SALT: Final = f"{FOLDER}/salt.json"
_TOMBSTONE: Final = re.compile(
    r"(?P<scope>[^/]+)/(?P<kind>account|id)-(?P<hash>[0-9a-f]{64})\.json"
)
_REMEDY: Final = "restore the folder from a copy of the store"

Kind = Literal["account", "id"]


class Salt(BaseModel):
    """Content of ``salt.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    salt: str


class Erasing(BaseModel):
    """Content of ``erasing.json``: the ``tombstone`` whose erasure is under way, and who works on
    it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    tombstone: str
    token: str


@dataclass(frozen=True)
class Subject:
    """What is to be forgotten: an account with all of its posts, or one post by its id."""

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        if not normalized(self.kind, self.name):
            raise InputError(
                f"--{self.kind} {self.name!r}", "names nothing", "give it as the export writes it"
            )

    def matches(self, post: str | None, account: str | None) -> bool:
        """Whether a post by its id and account, as far as they are known, is to go."""
        value = account if self.kind == "account" else post
        return value is not None and (
            normalized(self.kind, value) == normalized(self.kind, self.name)
        )


def normalized(kind: Kind, name: str) -> str:
    """A name in the one form that all spellings of it have.

    Exports of one network spell user names in several ways, which never tell two users apart: with
    an @, in capitals, with spaces around. Ids may differ by case alone, so only their ends are cut.
    """
    if kind == "id":
        return name.strip()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.split()).removeprefix("@").strip()


@dataclass(frozen=True)
class Forgotten:
    """The tombstones that hold for a dataset.

    Attributes:
        salt: of the hashes.
        hashes: by kind.
    """

    salt: str = ""
    hashes: dict[str, frozenset[str]] = field(default_factory=dict)
    _known: dict[tuple[str, str], bool] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return any(self.hashes.values())

    def has(self, kind: Kind, name: Any) -> bool:
        """Whether an account or a post was forgotten."""
        hashes = self.hashes.get(kind)
        if not hashes or name is None:
            return False
        key = (kind, str(name))
        # An account comes again with each of its posts; ids come once.
        if kind == "account" and key in self._known:
            return self._known[key]
        is_forgotten = hash_of(self.salt, kind, key[1]) in hashes
        if kind == "account":
            self._known[key] = is_forgotten
        return is_forgotten

    def has_post(self, post: Any, account: Any) -> bool:
        """Whether a post was forgotten, or its account."""
        return self.has("id", post) or self.has("account", account)

    def has_reject(self, post: str | None, row: str | None) -> bool:
        """The same of a reject, by its id and the row that it kept."""
        fields = fields_of(row)
        return self.has("id", post) or self.has_post(fields.get("id"), fields.get("account"))

    def drop(
        self, file: str, rows: Iterable[tuple[int, Post, str] | Reject]
    ) -> Iterator[tuple[int, Post, str] | Reject]:
        """Rows of a file as `posts.accept` gives them; one that was forgotten becomes a reject of
        which nothing is kept but where it stood."""
        if not self:
            yield from rows
            return
        for row in rows:
            if isinstance(row, Reject):
                gone, line = self.has_reject(row.post, row.row), row.line
            else:
                gone, line = self.has_post(row[1].id, row[1].account), row[0]
            yield nameless(file, line) if gone else row


def nameless(file: str, line: int) -> Reject:
    """Reject of a row that was forgotten."""
    return Reject(
        file, line, None, None, "forgotten", "the post or its account was forgotten", None
    )


def read(dataset_root: str) -> Forgotten:
    """The tombstones that hold for a dataset.

    Args:
        dataset_root: URI of ``STORE/datasets/NAME``.

    Raises:
        CorruptError: there are tombstones, and their salt is lost.
    """
    root = store_of(dataset_root)
    scopes = {WHOLE_STORE, store.name(dataset_root)}
    paths = (_TOMBSTONE.fullmatch(path) for path, _ in store.list_files(store.join(root, FOLDER)))
    tombstones = [path for path in paths if path and path["scope"] in scopes]
    if not tombstones:
        return Forgotten()
    hashes = {
        kind: frozenset(path["hash"] for path in tombstones if path["kind"] == kind)
        for kind in ("account", "id")
    }
    return Forgotten(_read_salt(root), hashes)


def write(root: str, scope: str, subject: Subject, at: str) -> str:
    """Put the tombstone of a subject, unless it is there; returns its path below the store's root.

    Args:
        root: of the store.
        scope: name of a dataset, or `WHOLE_STORE`.
        subject: what is forgotten.
        at: when, ISO-8601.
    """
    salt = Salt(salt=uuid.uuid4().hex + uuid.uuid4().hex)
    store.put_if_absent(store.join(root, _SALT), salt.model_dump_json(indent=1).encode())
    digest = hash_of(_read_salt(root), subject.kind, subject.name)
    path = f"{FOLDER}/{scope}/{subject.kind}-{digest}.json"
    # A token of its own tells this writer's bytes from another's; either has written the same.
    body = {"schema_version": 1, "kind": subject.kind, "at": at, "token": uuid.uuid4().hex}
    store.put_if_absent(store.join(root, path), json.dumps(body, indent=1).encode())
    return path


def begin(root: str, tombstone: str) -> None:
    """Say that an erasure is under way: until its end nothing makes versions of datasets. One of
    the same tombstone that was broken off is taken over.

    Raises:
        InputError: another one is under way.
    """
    target = store.join(root, ERASING)
    body = Erasing(tombstone=tombstone, token=uuid.uuid4().hex)
    if store.put_if_absent(target, body.model_dump_json(indent=1).encode()):
        return
    other = _read_erasing(root)
    if other is not None and other.tombstone != tombstone:
        raise InputError(
            target,
            "says that another erasure is under way, or was broken off",
            "finish that one first: run its `boig forget ... --apply` again",
        )
    # Gone between the two looks: what has ended was of the same tombstone, or of another.
    if other is None:
        begin(root, tombstone)


def end(root: str) -> None:
    """Say that the erasure is over."""
    store.delete_file(store.join(root, ERASING))


def require_no_erasure(root: str) -> None:
    """Refuse to make a version of a dataset while an erasure is under way: it could count on what
    is being erased.

    Args:
        root: of the store.

    Raises:
        InfrastructureError: one is; a later attempt may find it over.
    """
    if _read_erasing(root) is not None:
        raise InfrastructureError(
            store.join(root, ERASING),
            "an erasure is under way, or was broken off",
            "wait for its end, or run its `boig forget ... --apply` again",
        )


def hash_of(salt: str, kind: Kind, name: str) -> str:
    """What stands for a name in a tombstone."""
    return hashlib.sha256(f"{salt}\0{kind}\0{normalized(kind, name)}".encode()).hexdigest()


def store_of(dataset_root: str) -> str:
    """Root of the store that holds ``datasets/NAME``."""
    return dataset_root.rstrip("/").rsplit("/", 2)[0]


def _read_salt(root: str) -> str:
    target = store.join(root, _SALT)
    try:
        return control.read(target, Salt, "the salt of tombstones", _REMEDY).salt
    except NotFoundInStoreError as exc:
        # Without it nothing could be told to be forgotten, and all would come back.
        raise CorruptError(target, "is lost, and tombstones need it", _REMEDY) from exc


def _read_erasing(root: str) -> Erasing | None:
    try:
        what = ("a note of an erasure", "run the `boig forget` that was broken off again")
        return control.read(store.join(root, ERASING), Erasing, *what)
    except NotFoundInStoreError:
        return None


def fields_of(row: str | None) -> dict[str, Any]:
    """A row that a reject has kept; empty where it kept none."""
    fields = json.loads(row) if row else {}
    return fields if isinstance(fields, dict) else {}
