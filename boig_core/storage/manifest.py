"""Manifests: an output is a folder whose ``manifest.json`` is written last; without it the folder
does not exist.

A manifest lists each file with size and SHA-256 and says what the output was made from. It names
the commit that makes it true; readers require that commit. Times and attempt numbers stay out of
`Manifest.digest`, so equal content has equal digests.

In the file the commit is named by its place in the store, and so is the output itself (see
`places`): a reader gets from its location to the store, and from there to the commit, wherever the
store lies now.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit as commits
from boig_core.storage import control, paths, places, store, withdrawn

MANIFEST = "manifest.json"
_REMEDY: Final = "restore the file or make the output again"
PAGE = "card.html"
"""The page that says what is in an output, for those that have one."""


class FileEntry(BaseModel):
    """One file of an output; ``path`` is relative to the folder (or, with ``../``, to an immutable
    blob beside it)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        """Manifests may come from elsewhere: no path may lead a download out of its folder."""
        # Steps up at the start lead to blobs beside the output; further in they could only hide a
        # way out.
        if not places.is_place(path[len("../") * _steps_up(path) :]):
            raise ValueError("must be relative, with ../ at its start only")
        return path


class Lineage(BaseModel):
    """What an output was made from.

    Attributes:
        inputs: digest of each input manifest (or SHA-256 of a raw input file), by name; of anything
            else its place in the store or its location.
        recipe: digest of the resolved recipe.
        code: version of boig.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    inputs: dict[str, str]
    recipe: str
    code: str


class WentOnFrom(BaseModel):
    """A checkpoint that a training has gone on from: up to its step, the work was that of an
    earlier attempt.

    Attributes:
        checkpoint: its place in the store.
        step: steps, or epochs, that were done by then.
        recipe: digest of the resolved recipe by which they were done.
        code: version of boig that did them.
        asked_by: who had it gone on from after a clear; None: nobody needed to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    checkpoint: str
    step: int
    recipe: str
    code: str
    asked_by: tuple[str, ...] | None = None


class Manifest(BaseModel):
    """Content of ``manifest.json``.

    Attributes:
        went_on_from: of a training: the checkpoints of earlier attempts that it has gone on from,
            the first one first; empty: all steps are this attempt's own. None: it is no training,
            or of a version that did not say so.
        place: path of the output's folder below the root of its store.
        commit: location of the commit that makes it true; in the file its place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[2] = 2
    kind: str
    files: tuple[FileEntry, ...]
    lineage: Lineage
    meta: dict[str, Any] = {}
    went_on_from: tuple[WentOnFrom, ...] | None = None
    place: str
    commit: str

    @model_validator(mode="after")
    def _stays_in_the_store(self) -> Manifest:
        depth = places.checked(self.place).count("/") + 1
        if any(_steps_up(entry.path) > depth for entry in self.files):
            raise ValueError("a file lies outside of the store")
        return self

    def digest(self) -> str:
        """SHA-256 of kind, files, lineage and meta: what the output is, wherever and whenever it
        was made."""
        content = self.model_dump(mode="json", include={"kind", "files", "lineage", "meta"})
        return hashlib.sha256(
            json.dumps({**_HASHED_AS, **content}, sort_keys=True).encode()
        ).hexdigest()


_HASHED_AS: Final = {"schema_version": 1}
"""Belongs to the digest's own layout, not to the file's: lineage names outputs by their digests,
and those of outputs from before schema 2 must stay."""


def code_version() -> str:
    """Version of the installed boig."""
    try:
        return version("boig")
    except PackageNotFoundError:
        return "unknown"


def sha256_file(path: Path) -> str:
    """SHA-256 of a local file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish_folder(
    local: Path,
    uri: str,
    *,
    kind: str,
    lineage: Lineage,
    commit: str,
    meta: dict[str, Any] | None = None,
    blobs: tuple[FileEntry, ...] = (),
    went_on_from: tuple[WentOnFrom, ...] | None = None,
) -> Manifest:
    """Upload a local folder and then its manifest.

    Args:
        local: folder with the output's files.
        uri: where it goes; a version of its own, never written before.
        kind: such as ``dataset`` or ``boigllm``.
        commit: URI of the ``commit.json`` that will make it true.
        meta: small JSON values that say what the output is.
        blobs: files that lie elsewhere in the store, with paths relative to ``uri``.
        went_on_from: of a training, as in its manifest.

    Raises:
        InputError: the folder holds a ``manifest.json`` of its own, which this one would replace;
            or output and commit do not lie in one store.
    """
    if (local / MANIFEST).exists():
        raise InputError(
            local / MANIFEST,
            "would be replaced by the output's own manifest",
            "give it another name",
        )
    # Digests of the files here, not of those in the store: a transfer that changes a byte is then
    # found by whoever reads.
    files = [
        FileEntry(
            path=p.relative_to(local).as_posix(), size=p.stat().st_size, sha256=sha256_file(p)
        )
        for p in sorted(local.rglob("*"))
        if p.is_file()
    ]
    root = places.common_root(uri, commit)
    manifest = Manifest(
        kind=kind,
        files=(*files, *blobs),
        lineage=lineage,
        meta=meta or {},
        went_on_from=went_on_from,
        place=places.place_of(uri, root),
        commit=commit,
    )
    store.upload_folder(local, uri)
    write_manifest(manifest, root)
    return manifest


def write_manifest(manifest: Manifest, root: str) -> None:
    """Put a manifest into its place in the store at ``root``."""
    written = manifest.model_copy(update={"commit": places.place_of(manifest.commit, root)})
    # Other outputs have no such field: older versions of boig refuse one that they do not know.
    unsaid = {"went_on_from"} if manifest.went_on_from is None else None
    store.write_bytes(
        store.join(root, manifest.place, MANIFEST),
        written.model_dump_json(indent=1, exclude=unsaid).encode(),
    )


def read_written(uri: str) -> Manifest:
    """Manifest of an output, whether its attempt has committed or not.

    Raises:
        NotFoundInStoreError: no manifest.
        CorruptError: it cannot be read, is of another schema, or not in its place.
    """
    target, what = store.join(uri, MANIFEST), "a manifest"
    tree = control.read_object(target, what, _REMEDY)
    places.require_schema(target, tree, what)
    manifest = control.validated(target, Manifest, tree, what, _REMEDY)
    root = places.root_of(uri, manifest.place)
    commit = store.join(root, places.checked(manifest.commit))
    return manifest.model_copy(update={"commit": commit})


def read_manifest(uri: str, *, kind: str | None = None) -> Manifest:
    """Manifest of a committed output whose files can be read.

    Raises:
        NotFoundInStoreError: no manifest: there is no such output.
        WithdrawnError: its files were erased.
        CorruptError: the manifest cannot be read, is of another kind, or its attempt never
            committed it.
    """
    manifest = read_record(uri, kind=kind)
    withdrawn.require_current(uri)
    return manifest


def read_record(uri: str, *, kind: str | None = None) -> Manifest:
    """Like `read_manifest`, also of an output that was withdrawn: for whoever follows a lineage and
    opens no file of it.

    Raises:
        NotFoundInStoreError, CorruptError: as `read_manifest`.
    """
    target = store.join(uri, MANIFEST)
    manifest = read_written(uri)
    if kind is not None and manifest.kind != kind:
        raise CorruptError(
            target, f"is a {manifest.kind}, not a {kind}", "give the URI of the right output"
        )
    # A manifest alone proves nothing: an attempt that was fenced meanwhile has written its own.
    require_commit(uri, manifest)
    return manifest


def require_commit(uri: str, manifest: Manifest) -> None:
    """Refuse an output that its attempt has not made true.

    Raises:
        CorruptError: the attempt has not committed, was fenced, or committed other outputs.
    """
    target = store.join(uri, MANIFEST)
    attempt = manifest.commit.rsplit("/", 1)[0]
    try:
        committed = commits.require_commit(attempt)
    except NotFoundInStoreError as exc:
        raise CorruptError(
            target, "its attempt has not committed", "use an output of a finished run"
        ) from exc
    if committed is None or store.normalize(uri) not in committed["outputs"].values():
        raise CorruptError(
            target,
            "its attempt was fenced or committed other outputs",
            "use an output of a finished run",
        )


def verify(uri: str, *, kind: str | None = None) -> Manifest:
    """Read a manifest and check that each file has its size; content is checked as it is read by
    `fetch_folder`.

    Raises:
        CorruptError: a file is missing or has another size.
    """
    manifest = read_manifest(uri, kind=kind)
    # One listing per folder takes the place of a request per file.
    listed: dict[str, dict[str, int]] = {}
    for entry in manifest.files:
        file = resolve(uri, entry.path)
        # A blob lies outside of the output, so its own folder is listed.
        folder = file.rsplit("/", 1)[0] if entry.path.startswith("../") else uri
        if folder not in listed:
            listed[folder] = dict(store.list_files(folder))
        size = listed[folder].get(file.removeprefix(f"{folder.rstrip('/')}/"))
        if size != entry.size:
            raise CorruptError(
                file,
                f"must have {entry.size} bytes, has {'none' if size is None else size}",
                "make the output again",
            )
    return manifest


def fetch_folder(uri: str, local: Path, *, kind: str | None = None) -> Manifest:
    """Download a committed output and verify each file's SHA-256. Blobs that lie elsewhere are left
    out.

    Raises:
        CorruptError: a file differs from its manifest.
    """
    manifest = read_manifest(uri, kind=kind)
    for entry in manifest.files:
        if not entry.path.startswith("../"):
            fetch_file(uri, entry, paths.below(local, entry.path))
    return manifest


def fetch_file(uri: str, entry: FileEntry, local: Path) -> None:
    """Download one file of an output (or a blob it names) and verify it.

    Raises:
        CorruptError: size or SHA-256 differ.
    """
    source = resolve(uri, entry.path)
    try:
        store.download_file(source, local)
    except NotFoundInStoreError as exc:
        raise CorruptError(
            source, "is named by a manifest and missing", "make the output again"
        ) from exc
    try:
        require_content(local, entry, source)
    except CorruptError:
        # Left in place, it could be taken for a file that was verified.
        local.unlink()
        raise


def require_content(local: Path, entry: FileEntry, source: str) -> None:
    """Refuse a local file that is not what its manifest says.

    Args:
        local: the file.
        entry: of the manifest.
        source: location that the error names.

    Raises:
        CorruptError: it is missing, or size or SHA-256 differ.
    """
    if not local.is_file():
        raise CorruptError(source, "is named by a manifest and missing", "make the output again")
    if local.stat().st_size != entry.size or sha256_file(local) != entry.sha256:
        raise CorruptError(source, "differs from its manifest", "make the output again")


def find_file(uri: str, path: str) -> str | None:
    """URI of a file of a committed output, if its manifest names one.

    Raises:
        NotFoundInStoreError, CorruptError: as `read_manifest`.
    """
    return next(
        (resolve(uri, entry.path) for entry in read_manifest(uri).files if entry.path == path), None
    )


def read_file(uri: str, path: str, *, kind: str | None = None) -> bytes:
    """Content of a small file of a committed output, verified.

    Raises:
        InputError: the output has no such file.
        CorruptError: it differs from its manifest, or as `read_manifest`.
    """
    entry = next(
        (entry for entry in read_manifest(uri, kind=kind).files if entry.path == path), None
    )
    if entry is None:
        raise InputError(uri, f"has no {path}", "make the output again")
    data = store.read_bytes(resolve(uri, path))
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptError(resolve(uri, path), "differs from its manifest", "make the output again")
    return data


def _steps_up(path: str) -> int:
    """How many ``../`` a path begins with."""
    return (len(path) - len(re.sub(r"^(\.\./)+", "", path))) // len("../")


def resolve(uri: str, path: str) -> str:
    """URI of a manifest's file; ``../`` steps lead to blobs beside the version's folder."""
    while path.startswith("../"):
        uri, path = uri.rstrip("/").rsplit("/", 1)[0], path[3:]
    return store.join(uri, path)
