"""Signatures: who holds the public key sees that a promotion is what the operator's key has signed.

Signed is a list of SHA-256 sums, as ``sha256sum`` writes it: of a decision, of the promoted
manifest, and of all that both stand on. The signature is a plain Ed25519 one beside it. So an
auditor needs no boig: ``openssl`` checks the list, and ``sha256sum`` the files. Leaves out: which
files these are (see `evidence`), and who may read the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from boig_core import environment
from boig_core.environment import Variable
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import places, store

SUMS: Final = "SHA256SUMS"
"""File that lists what was signed."""
SIGNATURE: Final = "SHA256SUMS.sig"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")


def is_signing() -> bool:
    """Whether the operator has given a key to sign with."""
    return environment.SIGNING_KEY.read() is not None


def is_verifying() -> bool:
    """Whether the operator has given a key to verify with."""
    return environment.VERIFY_KEY.read() is not None


def sign(folder: str, sums: Mapping[str, str]) -> None:
    """Put a list of sums and its signature into a folder.

    Args:
        folder: where both go.
        sums: SHA-256 of each file by its place.

    Raises:
        InputError: the key is not set, or is no Ed25519 private key without a password.
    """
    key = _private_key()
    text = text_of(sums)
    store.write_bytes(store.join(folder, SUMS), text)
    store.write_bytes(store.join(folder, SIGNATURE), key.sign(text))


def verify(folder: str, key: Path | None = None) -> dict[str, str]:
    """Sums that a folder's signature covers.

    Args:
        folder: that holds both files.
        key: PEM file of the public key; None: the operator's.

    Raises:
        InputError: the key cannot be used.
        CorruptError: the folder is not signed, or not by this key.
    """
    public = _public_key(key)
    try:
        text = store.read_bytes(store.join(folder, SUMS))
        signature = store.read_bytes(store.join(folder, SIGNATURE))
    except NotFoundInStoreError as exc:
        raise CorruptError(
            folder, "is not signed", "promote again where BOIG_SIGNING_KEY is set"
        ) from exc
    try:
        public.verify(signature, text)
    except InvalidSignature as exc:
        raise CorruptError(
            store.join(folder, SIGNATURE),
            "is not the signature of this list by this key",
            "use the key of who promoted; if that is the right one, the list was changed",
        ) from exc
    return parse_sums(store.join(folder, SUMS), text)


def text_of(sums: Mapping[str, str]) -> bytes:
    """A list of sums as ``sha256sum --check`` reads it.

    Raises:
        CorruptError: a place cannot stand in a line of it.
    """
    if unfit := [place for place in sums if not places.is_place(place) or not place.isprintable()]:
        raise CorruptError(repr(unfit[0]), "cannot be listed", "rename the file")
    return "".join(f"{sums[place]}  {place}\n" for place in sorted(sums)).encode()


def parse_sums(uri: str, text: bytes) -> dict[str, str]:
    """SHA-256 of each file by its place.

    Raises:
        CorruptError: it is no such list.
    """
    try:
        matches = [_LINE.fullmatch(line) for line in text.decode().splitlines()]
    except UnicodeDecodeError:
        matches = [None]
    if not matches or not all(match and places.is_place(match[2]) for match in matches):
        raise CorruptError(uri, "is no list of SHA-256 sums", "export the folder again")
    return {match[2]: match[1] for match in matches if match}


def _private_key() -> Ed25519PrivateKey:
    path = _path_of(environment.SIGNING_KEY)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _no_key(environment.SIGNING_KEY.name, path) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(environment.SIGNING_KEY.name, path)
    return key


def _public_key(path: Path | None) -> Ed25519PublicKey:
    name = "--key" if path else environment.VERIFY_KEY.name
    path = path or _path_of(environment.VERIFY_KEY)
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as exc:
        raise _no_key(name, path) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(name, path)
    return key


def _path_of(variable: Variable) -> Path:
    path = variable.read()
    if path is None:
        raise InputError(variable.name, "is not set", "set it to the PEM file of a key")
    return Path(path)


def _no_key(name: str, path: Path) -> InputError:
    return InputError(
        f"{name}={path}",
        "cannot be read as an Ed25519 key without a password",
        "make one: openssl genpkey -algorithm ed25519 -out key.pem"
        " && openssl pkey -in key.pem -pubout -out key.pub",
    )
