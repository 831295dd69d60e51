"""An audit folder is verified where nothing is but the folder, the public key, openssl and
sha256sum, and one changed byte of any file is found there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from boig_core.storage import evidence
from infra.evidence.storage import relocation
from tests.unit.storage.keys import make_keys, use_keys
from tests.unit.storage.small_store import RUN, promote

ALLOWED = subprocess.run(
    ["unshare", "--map-root-user", "--net", "--mount", "chroot", "/", "/bin/true"],
    check=False,
    capture_output=True,
)


@pytest.mark.slow
@pytest.mark.skipif(ALLOWED.returncode != 0, reason="this system lets nobody make a root directory")
def test_an_auditor_who_has_nothing_else_verifies_and_finds_each_changed_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = make_keys(tmp_path / "keys")
    use_keys(monkeypatch, private, public)
    root, folder = str(tmp_path / "store"), tmp_path / "audit"
    decision, _ = promote(root, tmp_path)
    evidence.keep(root, decision)
    evidence.export(root, RUN, folder)
    found = relocation.audited(folder, public)
    files = found["files"]
    assert files > 8
    assert found == {
        "files": files,
        "verifies_in_an_empty_root": True,
        "changed_files_refused": [files - 1, files - 1],
        "refused_by_boig_audit": [files, files],
        "decision": "Approve",
    }
    # Nothing of this machine was at hand.
    machine = tmp_path / "machine"
    relocation.furnish(machine, folder, public)
    programs = {path.name for path in machine.rglob("bin/*")}
    assert programs == {"sh", "openssl", "sha256sum"}
    other = make_keys(tmp_path / "others")[1]
    (machine / "key.pub").write_bytes(other.read_bytes())
    assert not relocation.verifies(machine), "of another signer"
