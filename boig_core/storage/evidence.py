"""What a promotion stands on: the decision, the promoted model's manifest, its report, and every
manifest, commit and job from there back to the posts, each with its SHA-256.

Written beside the decision and signed where the operator gives a key, exported for an auditor as a
folder of its own. Leaves out: weights and images, which the manifests name by their hashes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit, control, manifest, places, signing, store
from boig_core.storage.inventory import OUTPUT
from boig_core.storage.job import JOB
from boig_core.storage.runs import DECISION

PROMOTIONS: Final = "runs/boig_promote"
APPROVED: Final = "Approve"
_REMEDY: Final = "restore the file, or decide once more in a new run"
README: Final = "README.md"
README_TEXT: Final = """\
# What a promotion stands on

`SHA256SUMS` lists every file of this folder but three: itself, its signature and this page.
Whoever has the public key of the signer can check all of it here, offline and without boig:

    openssl pkeyutl -verify -pubin -inkey PUBLIC_KEY.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig
    sha256sum --check --strict --quiet SHA256SUMS

`boig audit verify FOLDER --key PUBLIC_KEY.pem` does the same, refuses files that are not listed,
and follows the lineage.

* `runs/boig_promote/RUN/decision.json`: who decided what, when and why, with each gate.
* `runs/boig_promote/RUN/recipe.json`: the limits of the gates.
* `reports/VERSION/report.json`: the numbers that the gates were held against.
* `models/boigsd/VERSION/manifest.json`: the model, every file by its SHA-256.
* All other `manifest.json`: what it was made from, back to the dataset. `lineage.inputs` names each
  input by the digest of its manifest: the SHA-256 of `kind`, `files`, `lineage`, `meta` and
  `"schema_version": 1`, as JSON with sorted keys.
* `runs/.../attempt-N/job.json` and `commit.json`: what each stage was told, and what it made true.
"""


def keep(root: str, decision: str) -> bool:
    """List what a decision stands on and sign the list, beside the decision; False: the operator
    has given no key to sign with.

    Args:
        root: of the store.
        decision: URI of ``decision.json``.

    Raises:
        InputError: the key cannot be used.
        CorruptError, NotFoundInStoreError: what it stands on cannot be read.
    """
    if not signing.is_signing():
        return False
    run = places.place_of(decision, root).rsplit("/", 1)[0]
    signing.sign(store.join(root, run), collect(root, run))
    return True


def require_promoted(root: str, decision: str, model: str) -> None:
    """Refuse a model that no signed decision has approved, where the operator gives a key to verify
    with.

    Args:
        root: of the store that holds both.
        decision: URI of ``decision.json``; empty: none is known.
        model: URI of the model.

    Raises:
        CorruptError: the decision is not signed, was changed, or is about another model.
    """
    if not signing.is_verifying():
        return
    if not decision:
        raise CorruptError(model, "has no signed decision", "promote it again with a signing key")
    folder = decision.rsplit("/", 1)[0]
    sums = signing.verify(folder)
    place = places.place_of(model, root)
    for file in (f"{places.place_of(folder, root)}/{DECISION}", f"{place}/{manifest.MANIFEST}"):
        _require_sum(root, file, sums)
    body = _read(root, places.place_of(decision, root))
    promoted = manifest.read_manifest(model, kind="sd").digest()
    if (body.get("decision"), body.get("manifest")) != (APPROVED, promoted):
        raise CorruptError(decision, f"does not approve {model}", "promote it in a run of its own")


def collect(root: str, run: str) -> dict[str, str]:
    """SHA-256 of each file that a decision stands on, by its place.

    Args:
        root: of the store.
        run: place of the run that was decided in, ``runs/boig_promote/RUN``.

    Raises:
        CorruptError: a file is not what a manifest or a lineage says.
        NotFoundInStoreError: a file is gone.
    """
    beside = [
        f"{run}/{path}"
        for path, _ in store.list_files(store.join(root, run))
        if "/" not in path and path not in (signing.SUMS, signing.SIGNATURE)
    ]
    body = _read(root, f"{run}/{DECISION}")
    named = [body.get(key) for key in ("candidate", "report")]
    if not all(isinstance(at, str) for at in named):
        raise CorruptError(f"{run}/{DECISION}", "names no model and report", _REMEDY)
    # A decision from before schema 2 names locations.
    model, report = (places.place_of(places.locate(str(at), root), root) for at in named)
    if body.get("manifest") != manifest.read_record(store.join(root, model)).digest():
        raise CorruptError(f"{run}/{DECISION}", f"is about another {model}", _REMEDY)
    files = [*beside, f"{report}/report.json", *_lineage(root, [model, report])]
    return {place: _sum(root, place) for place in files}


def export(root: str, run: str, folder: Path) -> bool:
    """Write the folder that an auditor verifies; returns whether it is signed.

    Args:
        root: of the store.
        run: place of the run that was decided in.
        folder: a new one.

    Raises:
        InputError: the folder holds something.
        CorruptError: a file is not the one that was signed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(folder, "is not empty", "name a new folder")
    home = store.join(root, run)
    is_signed = store.exists(store.join(home, signing.SIGNATURE))
    if is_signed:
        text = store.read_bytes(store.join(home, signing.SUMS))
        sums = signing.parse_sums(store.join(home, signing.SUMS), text)
    else:
        sums = collect(root, run)
        text = signing.text_of(sums)
    for place in sums:
        _require_sum(root, place, sums)
    # Beside it first: an auditor must not be given a folder that was cut short.
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for place in sums:
        store.download_file(store.join(root, place), partial / place)
    (partial / signing.SUMS).write_bytes(text)
    (partial / README).write_text(README_TEXT, "utf-8")
    if is_signed:
        store.download_file(store.join(home, signing.SIGNATURE), partial / signing.SIGNATURE)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return is_signed


def verify_export(folder: Path, key: Path) -> dict[str, Any]:
    """Verify an exported folder by nothing but itself and the public key; returns the decision.

    Raises:
        InputError: the key cannot be used.
        CorruptError: it is not signed by this key, a byte of it was changed, or a file is missing
            or was added.
    """
    sums = signing.verify(str(folder), key)
    _require_only(folder, sums)
    for place in sums:
        _require_sum(str(folder), place, sums)
    decisions = [place for place in sums if place.endswith(f"/{DECISION}")]
    if len(decisions) != 1:
        raise CorruptError(folder, f"holds {len(decisions)} decisions", "export it again")
    again = collect(str(folder), decisions[0].rsplit("/", 1)[0])
    if again != sums:
        lost = sorted(again.items() ^ sums.items())[0][0]
        raise CorruptError(folder / lost, "does not belong to the lineage", "export it again")
    return _read(str(folder), decisions[0])


def find_decision(root: str, wanted: str) -> str:
    """Place of the promotion run that is meant by its name, a part of it, or ``latest``.

    Raises:
        InputError: none or several.
    """
    files = store.list_with_times(store.join(root, PROMOTIONS))
    decided = {
        file.path.removesuffix(f"/{DECISION}"): file.modified
        for file in files
        if file.path.endswith(f"/{DECISION}") and file.path.count("/") == 1
    }
    name = wanted.removeprefix("boig_promote/")
    exact = [run for run in decided if run == name]
    newest = [max(decided, key=lambda run: decided[run])] if decided and name == "latest" else []
    matches = exact or newest or [run for run in decided if name in run]
    if len(matches) != 1:
        near = ", ".join(sorted(matches or decided)[:5])
        raise InputError(
            f"run {wanted!r}",
            f"is part of {len(matches)} promotions that were decided",
            f"name one of: {near}" if near else f"{root} holds none; set BOIG_STORE to another",
        )
    return f"{PROMOTIONS}/{matches[0]}"


def _lineage(root: str, outputs: list[str]) -> Iterator[str]:
    """Manifest, commit and job of outputs and of all that they were made from.

    Raises:
        CorruptError: an input is not the one that a manifest names.
    """
    seen: set[str] = set()
    queue = list(outputs)
    while queue:
        output = queue.pop(0)
        if output in seen:
            continue
        seen.add(output)
        made = manifest.read_record(store.join(root, output))
        attempt = places.place_of(made.commit, root).rsplit("/", 1)[0]
        yield from (f"{output}/{manifest.MANIFEST}", f"{attempt}/{commit.COMMIT}")
        yield f"{attempt}/{JOB}"
        inputs = _read(root, f"{attempt}/{JOB}").get("inputs")
        for name, place in (inputs if isinstance(inputs, dict) else {}).items():
            if not OUTPUT.fullmatch(f"{place}/{manifest.MANIFEST}"):
                continue
            digest = manifest.read_record(store.join(root, place)).digest()
            if digest != made.lineage.inputs.get(name):
                raise CorruptError(place, f"is not what {output} was made from", _REMEDY)
            queue.append(place)


def _require_only(folder: Path, sums: Mapping[str, str]) -> None:
    named = {*sums, signing.SUMS, signing.SIGNATURE, README}
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if added := there - named:
        raise CorruptError(folder / min(added), "is not among what was signed", "remove it")
    if README not in there or (folder / README).read_bytes() != README_TEXT.encode():
        raise CorruptError(folder / README, "was changed", "export the folder again")


def _require_sum(root: str, place: str, sums: Mapping[str, str]) -> None:
    uri = store.join(root, place)
    try:
        same = sums.get(place) == _sum(root, place)
    except NotFoundInStoreError as exc:
        raise CorruptError(uri, "is signed and missing", "restore the file") from exc
    if not same:
        raise CorruptError(uri, "is not what was signed", "restore the file")


def _sum(root: str, place: str) -> str:
    return hashlib.sha256(store.read_bytes(store.join(root, place))).hexdigest()


def _read(root: str, place: str) -> dict[str, Any]:
    return control.read_object(store.join(root, place), "a control file", _REMEDY)
