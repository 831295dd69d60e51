"""What has ever failed: each file of ``corpus/KIND`` is held against the property of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.properties import KINDS

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_once_failed(file: Path) -> None:
    KINDS[file.parts[0]].check((CORPUS / file).read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_is_accepted(kind: str) -> None:
    """A mutation of nothing that is valid would reach no deep code."""
    for seed in KINDS[kind].seeds():
        KINDS[kind].check(seed)
