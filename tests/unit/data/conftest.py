"""Exports made of a few rows and pictures, and datasets ingested from them in this process."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boig_core.config import Data
from boig_core.data import dataset, staging
from boig_core.data.ingestion import ImageFetcher, Ingested, OneProcess, ingest
from boig_core.storage import commit, store
from boig_core.storage.manifest import Lineage, publish_folder
from boig_core.storage.period import Period


def picture(seed: int, form: str = "PNG", side: int = 32, **options: Any) -> bytes:
    """An image of a few large blobs, so that its perceptual hash holds under compression and
    differs from any other's."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blobs).resize((side, side), Image.Resampling.BICUBIC).save(
        buffer, format=form, **options
    )
    return buffer.getvalue()


def row(
    name: str, likes: float, *images: str, account: str = "a", day: str = "2020-01-01", **more: Any
) -> dict[str, Any]:
    text = f"A text of post {name} that is long enough for every rule of the recipe"
    return {
        "id": name,
        "account": account,
        "timestamp": day,
        "text": text,
        "images": list(images),
        "likes": likes,
        **more,
    }


class Archive:
    """A store with one dataset, whose versions are ingested one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = str(folder / "store")
        self.root = store.join(self.store, "datasets", "d")
        self._versions = 0

    def export(
        self, rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes], name: str = "export"
    ) -> str:
        """Write an export; returns its location."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "posts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
        for path, data in images.items():
            (folder / path).write_bytes(data)
        return str(folder)

    def ingest(self, location: str | None, earlier: str | None = None, **options: Any) -> str:
        """Ingest and commit a version; options are those of `make`; returns its URI."""
        return self.publish(self.make(location, earlier, **options))

    def make(
        self,
        location: str | None,
        earlier: str | None = None,
        *,
        seed: int = 0,
        retry: bool = False,
        crew: ImageFetcher | None = None,
        period: Period | None = None,
        roots: Sequence[str] = (),
        **rules: Any,
    ) -> Ingested:
        """Ingest without a commit."""
        self._versions += 1
        scratch = self.folder / f"scratch-{self._versions}"
        scratch.mkdir()
        crew = crew or OneProcess()
        return ingest(
            location,
            earlier,
            Data(**rules),
            seed,
            root=self.root,
            scratch=scratch,
            crew=crew,
            retry=retry,
            period=period,
            roots=roots,
        )

    def publish(self, made: Ingested, **meta: Any) -> str:
        """Commit what was made; returns its URI."""
        version = f"v{self._versions}"
        uri, attempt = store.join(self.root, version), store.join(self.store, "runs", version)
        lineage = Lineage(inputs={}, recipe="r", code="c")
        where = store.join(attempt, commit.COMMIT)
        publish_folder(
            made.folder,
            uri,
            kind=dataset.KIND,
            lineage=lineage,
            commit=where,
            meta=made.meta | meta,
            blobs=made.blobs,
        )
        commit.commit(attempt, {"dataset": uri}, {})
        staging.clear(self.root, made.staged)
        return uri


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty archive."""
    return Archive(tmp_path)
