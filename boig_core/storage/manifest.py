"""Manifests: an output is a folder whose ``manifest.json`` is written last; without it the folder
does not exist.

A manifest lists each file with size and SHA-256 and says what the output was made from. It names
the commit that makes it true; readers require that commit. Times and attempt numbers stay out of
`Manifest.digest`, so equal content has equal digests.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import control, paths, store

MANIFEST = "manifest.json"
PAGE = "card.html"
"""The page that says what is in an output, for those that have one."""
_DEEPEST = 3
"""Folders from a store's root down to an output, as in ``datasets/NAME/VERSION``: steps up that
lead no further stay in the store."""


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
        steps, inner = _steps_up(path)
        if steps > _DEEPEST or not paths.is_inner(inner):
            raise ValueError(
                f"must be relative, with ../ at its start only, {_DEEPEST} times at most"
            )
        return path


class Lineage(BaseModel):
    """What an output was made from.

    Attributes:
        inputs: digest of each input manifest (or SHA-256 of a raw input file), by name.
        recipe: digest of the resolved recipe.
        code: version of boig.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    inputs: dict[str, str]
    recipe: str
    code: str


class Manifest(BaseModel):
    """Content of ``manifest.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    kind: str
    files: tuple[FileEntry, ...]
    lineage: Lineage
    meta: dict[str, Any] = {}
    commit: str

    def digest(self) -> str:
        """SHA-256 of kind, files, lineage and meta: what the output is, wherever and whenever it
        was made."""
        body = self.model_dump(mode="json", exclude={"commit"})
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Outputs(BaseModel):
    """What a manifest's commit names; a fence names none."""

    outputs: dict[str, str] = {}


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
) -> Manifest:
    """Upload a local folder and then its manifest.

    Args:
        local: folder with the output's files.
        uri: where it goes; a version of its own, never written before.
        kind: such as ``dataset`` or ``boigllm``.
        commit: URI of the ``commit.json`` that will make it true.
        meta: small JSON values that say what the output is.
        blobs: files that lie elsewhere in the store, with paths relative to ``uri``.

    Raises:
        InputError: the folder holds a ``manifest.json`` of its own, which this one would replace.
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
    store.upload_folder(local, uri)
    manifest = Manifest(
        kind=kind, files=(*files, *blobs), lineage=lineage, meta=meta or {}, commit=commit
    )
    store.write_bytes(store.join(uri, MANIFEST), manifest.model_dump_json(indent=1).encode())
    return manifest


def read_manifest(uri: str, *, kind: str | None = None) -> Manifest:
    """Manifest of a committed output.

    Raises:
        NotFoundInStoreError: no manifest: there is no such output.
        CorruptError: the manifest cannot be read, is of another kind, or its attempt never
            committed it.
    """
    target = store.join(uri, MANIFEST)
    manifest = control.read(
        target, Manifest, "a manifest", "restore the file or make the output again"
    )
    if kind is not None and manifest.kind != kind:
        raise CorruptError(
            target, f"is a {manifest.kind}, not a {kind}", "give the URI of the right output"
        )
    try:
        # A manifest alone proves nothing: an attempt that was fenced meanwhile has written its own.
        commit = control.read(manifest.commit, _Outputs, "a commit", "make the output again")
        committed = [store.normalize(out) for out in commit.outputs.values()]
    except NotFoundInStoreError as exc:
        raise CorruptError(
            target, "its attempt has not committed", "use an output of a finished run"
        ) from exc
    except InputError as exc:
        raise CorruptError(
            target, f"names no commit, or one of no outputs ({exc})", "make the output again"
        ) from exc
    # A fence stands in the commit's place and names no outputs, so it is refused here.
    if store.normalize(uri) not in committed:
        raise CorruptError(
            target,
            "its attempt was fenced or committed other outputs",
            "use an output of a finished run",
        )
    return manifest


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
    if local.stat().st_size != entry.size or sha256_file(local) != entry.sha256:
        # Left in place, it could be taken for a file that was verified.
        local.unlink()
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


def resolve(uri: str, path: str) -> str:
    """URI of a manifest's file; ``../`` steps lead to blobs beside the version's folder.

    Raises:
        CorruptError: they lead out of the store.
    """
    steps, inner = _steps_up(path)
    folders = uri.rstrip("/").split("/")
    # A report is ROOT/reports/VERSION; a dataset may be called reports, too.
    families = {"datasets", "models", "evaluations"}
    flat = folders[-2:-1] == ["reports"] and not families & {*folders[-3:-2]}
    if steps > _DEEPEST - flat:
        raise CorruptError(
            store.join(uri, MANIFEST), "names a file outside of the store", "make the output again"
        )
    return store.join("/".join(folders[: len(folders) - steps]), inner)


def _steps_up(path: str) -> tuple[int, str]:
    inner = path
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    return (len(path) - len(inner)) // len("../"), inner
