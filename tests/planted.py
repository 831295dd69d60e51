"""Secrets that tests plant in environments, and the search for them in everything that is written
meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path


def make_secrets() -> dict[str, str]:
    """Environment variables that hold secrets, each with a value that stands nowhere else; see
    `values_in`."""
    mark = secrets.token_hex
    return {
        "AWS_ACCESS_KEY_ID": mark(10),
        "AWS_SECRET_ACCESS_KEY": mark(20),
        "FEW_SHOT_KEY": mark(16),  # what tests/policy.yaml names
        "MLFLOW_TRACKING_URI": f"http://tracker:{mark(16)}@127.0.0.1:9",
        "BOIG_ALERT_URL": f"http://127.0.0.1:9/hooks/{mark(16)}",
    }


def values_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The secret part of each of these variables: of an address its password, or the last part of
    its path."""
    return {
        name: value.partition("@")[0].rsplit(":", 1)[-1].rsplit("/", 1)[-1]
        for name, value in environment.items()
    }


def found_in(folder: Path, values: Mapping[str, str]) -> dict[str, list[str]]:
    """Files below a folder that hold a secret, by the secret's name."""
    result: dict[str, list[str]] = {}
    for file in sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    ):
        content = file.read_bytes()
        for name, value in values.items():
            if value.encode() in content:
                result.setdefault(name, []).append(str(file.relative_to(folder)))
    return result
