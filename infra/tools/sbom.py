"""The software bill of materials: every pinned package with its hashes, as CycloneDX, so that an
advisory can be looked up without an installation.

Written by ``make sbom`` with ``cyclonedx-py``, which lives in an environment of its own. It names
torch without a hash, as the lock does (decision 0003), and leaves out what only a CUDA build of
torch brings along, and Debian's packages of the images.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[2]
PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
"""Name and version of a pinned requirement, at the beginning of its line."""


def requirements() -> str:
    """The lock and, before it, torch as ``pyproject.toml`` pins it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ray = project["optional-dependencies"]["ray"]
    (torch,) = (text for text in ray if text.startswith("torch=="))
    return f"{torch}\n{(ROOT / 'requirements.lock').read_text('utf-8')}"


def pins(text: str) -> set[tuple[str, str]]:
    """Name and version of each requirement of a lock."""
    return {(canonicalize_name(name), version) for name, version in PIN.findall(text)}


def listed(bill: dict[str, Any]) -> set[tuple[str, str]]:
    """Name and version of each component of a CycloneDX document."""
    return {
        (canonicalize_name(component["name"]), component["version"])
        for component in bill.get("components", [])
    }


def main(tool: str, out: str) -> None:
    """Writes the bill, whole or not at all.

    Args:
        tool: path of ``cyclonedx-py``.
        out: the file to write.
    """
    asked = requirements()
    command = [tool, "requirements", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--output-reproducible", "--of", "JSON", "-"]
    # It would warn that nobody says which package asks for which: a lock does not.
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        command, input=asked, stdout=subprocess.PIPE, env=env, text=True, check=True
    )
    if missing := pins(asked) - listed(json.loads(result.stdout)):
        sys.exit(f"{tool}: leaves out {sorted(missing)}; use the version of infra/tools/sbom.lock")
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".new")
    partial.write_text(result.stdout, "utf-8")
    os.replace(partial, target)
    print(f"{out}: {len(pins(asked))} packages")


if __name__ == "__main__":
    main(*sys.argv[1:])
