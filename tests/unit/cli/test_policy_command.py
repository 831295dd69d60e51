"""``boig policy``: what is shown is a policy again, and a recipe is held against it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.test_cli import boig


def test_the_policy_is_shown_and_recipes_are_held_against_it(tmp_path: Path) -> None:
    shown = boig("policy", "show", cwd=tmp_path)
    assert shown.stdout.startswith("# the strict default (BOIG_POLICY is not set)\n# digest ")
    assert boig("policy", "check", "tiny", cwd=tmp_path).stdout.startswith("policy and tiny: ok")
    own, wrong = tmp_path / "own.yaml", tmp_path / "wrong.yaml"
    own.write_text(shown.stdout)
    digests = {
        json.loads(boig("policy", command, "--json", cwd=tmp_path, BOIG_POLICY=str(own)).stdout)[
            "digest"
        ]
        for command in ("show", "check")
    }
    assert f"# digest {digests.pop()}" in shown.stdout, "what is shown is the same policy"
    assert not digests
    both = ["--set", "sd.base=/etc", "--set", "promotion.max_fid=null"]
    refused = boig("policy", "check", "tiny", *both, cwd=tmp_path, BOIG_POLICY=str(own))
    assert refused.returncode == 2
    assert [line.split(" = ")[0] for line in refused.stdout.splitlines()] == [
        "sd.base",
        "promotion.max_fid",
    ]
    assert "own.yaml:" in refused.stdout
    wrong.write_text("gate: {}")
    refused = boig("policy", "check", cwd=tmp_path, BOIG_POLICY=str(wrong))
    assert refused.returncode == 2
    assert "did you mean gates?" in refused.stderr
