"""What a promotion stands on: signed, verified wherever the champion is opened, and exported as a
folder in which one changed byte is found."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import CorruptError, InputError
from boig_core.storage import evidence, manifest, signing, store, withdrawn
from boig_core.storage.evidence import README
from boig_core.storage.job import Stage
from tests.unit.storage.keys import make_keys, use_keys
from tests.unit.storage.small_store import RUN, SHARD, decide, promote, publish


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    private, public = make_keys(tmp_path / "keys")
    use_keys(monkeypatch, private, public)
    return private, public


def change(uri: str, at: int = 0) -> None:
    data = bytearray(store.read_bytes(uri))
    data[at] ^= 1
    store.write_bytes(uri, bytes(data))


def test_a_signed_decision_lets_its_model_be_opened(
    root: str, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    decision, model = promote(root, tmp_path)
    with pytest.raises(CorruptError, match="is not signed"):
        evidence.require_promoted(root, decision, model)
    assert evidence.keep(root, decision)
    evidence.require_promoted(root, decision, model)
    signed = signing.verify(store.join(root, RUN))
    place = model.removeprefix(f"{root}/")
    assert {f"{RUN}/decision.json", f"{RUN}/recipe.json", f"{place}/manifest.json"} <= set(signed)
    assert any(path.startswith("datasets/acme/") for path in signed), "back to the posts"
    with pytest.raises(CorruptError, match="has no signed decision"):
        evidence.require_promoted(root, "", model)


def test_without_keys_nothing_is_signed_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "store")
    use_keys(monkeypatch, None, None)
    decision, model = promote(root, tmp_path)
    assert not evidence.keep(root, decision)
    assert not store.exists(f"{root}/{RUN}/{signing.SUMS}")
    evidence.require_promoted(root, "", model)


FORGED = {
    "the decision": lambda root, model: change(f"{root}/{RUN}/decision.json", 2),
    "the manifest": lambda root, model: change(f"{model}/manifest.json", -3),
    "the list": lambda root, model: change(f"{root}/{RUN}/{signing.SUMS}"),
    "the signature": lambda root, model: change(f"{root}/{RUN}/{signing.SIGNATURE}"),
    "no signature": lambda root, model: store.delete_file(f"{root}/{RUN}/{signing.SIGNATURE}"),
    "no list": lambda root, model: store.delete_file(f"{root}/{RUN}/{signing.SUMS}"),
    "no decision": lambda root, model: store.delete_file(f"{root}/{RUN}/decision.json"),
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.usefixtures("keys")
def test_what_was_changed_since_it_was_signed_is_refused(tmp_path: Path, what: str) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    evidence.keep(root, decision)
    FORGED[what](root, model)
    with pytest.raises(CorruptError):
        evidence.require_promoted(root, decision, model)


@pytest.mark.usefixtures("keys")
def test_another_model_another_answer_and_another_key_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    evidence.keep(root, decision)
    dataset = manifest.read_manifest(model).place  # of the store, and signed as a manifest is
    other = publish(root, tmp_path, Stage.DDPO, "models/boigsd", "sd", run="later", model=model)
    with pytest.raises(CorruptError, match="is not what was signed"):
        evidence.require_promoted(root, decision, other)
    report = json.loads(store.read_bytes(decision))["report"]
    rejected = decide(root, model, f"{root}/{report}", "Reject", "runs/boig_promote/manual-2")
    evidence.keep(root, rejected)
    with pytest.raises(CorruptError, match=f"does not approve .*{dataset}"):
        evidence.require_promoted(root, rejected, model)
    # Whoever can write to the store and has no key signs with one of their own.
    private, _ = make_keys(tmp_path / "theirs")
    monkeypatch.setenv("BOIG_SIGNING_KEY", str(private))
    evidence.keep(root, decision)
    with pytest.raises(CorruptError, match="is not the signature of this list by this key"):
        evidence.require_promoted(root, decision, model)


@pytest.mark.parametrize("content", [None, b"", b"no key", "rsa", "public"])
def test_a_key_that_cannot_be_used_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    path = tmp_path / "bad.pem"
    if content == "rsa":
        command = ["openssl", "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"]
        subprocess.run([*command, "-out", str(path)], check=True, capture_output=True)
    elif content is not None:
        path.write_bytes(b"-----BEGIN PUBLIC KEY-----\n" if content == "public" else content)
    use_keys(monkeypatch, path, path)
    for act in (
        lambda: evidence.keep(root, decision),
        lambda: evidence.require_promoted(root, decision, model),
    ):
        with pytest.raises(InputError, match="openssl genpkey -algorithm ed25519"):
            act()


def exported(tmp_path: Path, public: Path) -> Path:
    root, folder = str(tmp_path / "store"), tmp_path / "audit"
    decision, _ = promote(root, tmp_path)
    evidence.keep(root, decision)
    done = CliRunner().invoke(app, ["audit", "manual-1", "--to", str(folder), "--store", root])
    assert done.exit_code == 0, done.output
    shutil.rmtree(root)  # the auditor has the folder and the public key alone
    assert "signed" in done.stdout
    assert "not signed" not in done.stdout
    return folder


def verified(folder: Path, public: Path) -> bool:
    done = CliRunner().invoke(app, ["audit", "verify", str(folder), "--key", str(public)])
    assert done.exit_code in (0, 2) or isinstance(done.exception, (CorruptError, InputError))
    return done.exit_code == 0


def test_the_folder_verifies_alone_and_one_changed_byte_is_found(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    folder = exported(tmp_path, keys[1])
    assert verified(folder, keys[1])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"decision.json", "recipe.json", "report.json", "manifest.json", README} <= names
    assert not any(SHARD in path.read_bytes() for path in files), "no images, no weights"
    for path in files:
        data = path.read_bytes()
        for at in {0, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert not verified(folder, keys[1]), (path, at)
        path.write_bytes(data + b"\n")
        assert not verified(folder, keys[1]), path
        path.unlink()
        assert not verified(folder, keys[1]), path
        path.write_bytes(data)
    (folder / "added.txt").write_text("x")
    assert not verified(folder, keys[1])
    (folder / "added.txt").unlink()
    assert not verified(folder, make_keys(tmp_path / "theirs")[1])
    assert verified(folder, keys[1])


def test_the_commands_of_its_readme_verify_it(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = exported(tmp_path, keys[1])
    commands = [
        line.strip() for line in (folder / README).read_text().splitlines() if "    " in line
    ]
    commands = [line.replace("PUBLIC_KEY.pem", str(keys[1])) for line in commands]
    assert [line.split()[0] for line in commands] == ["openssl", "sha256sum"]

    def works() -> bool:
        return all(
            subprocess.run(line.split(), cwd=folder, capture_output=True).returncode == 0
            for line in commands
        )

    assert works()
    for name in (signing.SUMS, signing.SIGNATURE, f"{RUN}/decision.json"):
        change(str(folder / name))
        assert not works(), name
        change(str(folder / name))
    assert works()


def test_what_is_exported_is_what_was_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    evidence.keep(root, decision)
    change(f"{model}/manifest.json", -3)
    with pytest.raises(CorruptError, match="is not what was signed"):
        evidence.export(root, RUN, tmp_path / "audit")
    assert not (tmp_path / "audit").exists()
    change(f"{model}/manifest.json", -3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        evidence.export(root, RUN, tmp_path / "mine")
    assert evidence.find_decision(root, "latest") == RUN
    with pytest.raises(InputError, match="is part of 0 promotions"):
        evidence.find_decision(root, "nothing")


def test_an_unsigned_promotion_is_exported_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, None, None)
    root = str(tmp_path / "store")
    promote(root, tmp_path)
    assert evidence.export(root, RUN, tmp_path / "audit") is False
    with pytest.raises(CorruptError, match="is not signed"):
        evidence.verify_export(tmp_path / "audit", make_keys(tmp_path / "keys")[1])


@pytest.mark.parametrize("is_signed", [True, False])
def test_an_audit_outlives_the_withdrawal_of_a_version(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, is_signed: bool
) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    if not is_signed:
        use_keys(monkeypatch, None, None)
    assert evidence.keep(root, decision) is is_signed
    [dataset] = [
        path for path, _ in store.list_files(root) if path.startswith("datasets/acme/dag")
    ][:1]
    place = "/".join(dataset.split("/")[:3])
    withdrawn.write(
        root, withdrawn.Withdrawal(place=place, at="2026-01-01", erasure="x", successor=None)
    )
    for path, _ in store.list_files(store.join(root, place)):
        if path not in ("manifest.json", "withdrawn.json"):
            store.delete_file(store.join(root, place, path))
    assert evidence.export(root, RUN, tmp_path / "audit") is is_signed
    if is_signed:
        evidence.require_promoted(root, decision, model)
        assert evidence.verify_export(tmp_path / "audit", keys[1])["decision"] == "Approve"
