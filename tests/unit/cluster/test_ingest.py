"""The crews of an ingestion: what is fetched here, by other processes, and by a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boig_core.cluster import ingest
from boig_core.config import Data
from boig_core.data import staging
from boig_core.data.fetching.reach import ImageReference, Reach
from tests.unit.data.conftest import picture


class Processes:
    """Of this one alone."""

    started: list[int]

    def __init__(self, work: Any, count: int) -> None:
        self.work = work
        self.started.append(count)

    def spread(self, items: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        yield from ((number, self.work(*item)) for number, item in enumerate(items))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    Processes.started = []
    monkeypatch.setattr(ingest, "Processes", Processes)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Processes.started


def fetch(folder: Path, *counts: int) -> list[str | None]:
    """Hashes of references to one image, of as many as each call of the crew has."""
    (folder / "x.png").write_bytes(picture(0))
    base, data, crew, hashes = str(folder), Data(), ingest.choose_crew(), list[str | None]()
    for first, count in enumerate(counts):
        references = [
            ImageReference(base, f"{base}/{'./' * (1000 * first + n)}x.png") for n in range(count)
        ]
        chunks = staging.make_chunks(references, data, Reach(), staging.CHUNK, first)
        for table in crew.fetch(chunks, data, str(folder / "set")):
            hashes += table["sha256"].to_pylist()
    return hashes


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_images_are_fetched_right_here(count: int, tmp_path: Path, started: list[int]) -> None:
    hashes = fetch(tmp_path, count)
    assert len(hashes) == count
    assert len(set(hashes)) == min(count, 1)
    assert not started


@pytest.mark.parametrize("counts", [(3,), (3, 1), (3, 4)])
def test_many_images_are_fetched_by_processes_of_one_start(
    counts: tuple[int, ...], tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 3)
    assert len(fetch(tmp_path, *counts)) == sum(counts)
    assert len(started) == 1


def test_a_cluster_that_there_is_fetches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert isinstance(ingest.choose_crew(), ingest.RayCrew)
