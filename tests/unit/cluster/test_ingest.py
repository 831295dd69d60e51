"""The crew of an ingestion: a cluster is started only for what is worth one."""

from __future__ import annotations

from pathlib import Path

import pytest

from boig_core.cluster import ingest, session
from boig_core.config import Data
from boig_core.data import staging
from boig_core.data.fetching.reach import ImageReference, Reach
from tests.unit.data.conftest import picture


class ClusterWantedError(Exception):
    """Somebody has asked for a cluster."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise ClusterWantedError

    monkeypatch.setattr(session, "connect", connect)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def fetch(folder: Path, count: int, first: int = 0) -> list[str | None]:
    """Hashes of ``count`` references to one image."""
    (folder / "x.png").write_bytes(picture(0))
    base, data = str(folder), Data()
    references = [ImageReference(base, f"{base}/{'./' * n}x.png") for n in range(count)]
    chunks = staging.make_chunks(references, data, Reach(), staging.CHUNK, first)
    tables = ingest.RayCrew().fetch(chunks, data, str(folder / "set"))
    return [sha256 for table in tables for sha256 in table["sha256"].to_pylist()]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_images_are_fetched_without_a_cluster(count: int, tmp_path: Path) -> None:
    hashes = fetch(tmp_path, count)
    assert len(hashes) == count
    assert len(set(hashes)) == min(count, 1)


@pytest.mark.parametrize(
    ("count", "first", "address"),
    [
        (staging.CHUNK, 0, ""),  # more may follow
        (1, 1, ""),  # the last of many
        (1, 0, "127.0.0.1:1"),  # there is a cluster, which may reach what this machine does not
    ],
)
def test_others_are_fetched_by_a_cluster(
    count: int, first: int, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterWantedError):
        fetch(tmp_path, count, first)
