"""A store as stages make it, in which one account is to be forgotten, and a search for what is left
of it in any file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from boig_core.config import load_recipe
from boig_core.data import dataset, perceived, staging, tables
from boig_core.data.forgotten import Subject
from boig_core.data.ingestion import OneProcess, ingest
from boig_core.data.perceived import Question
from boig_core.storage import commit, manifest, marker, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.stage import Workspace
from boig_core.vocabulary import Description, Perceived

from .conftest import picture, row

LEAVER = "Mallory"
"""The account that is to be forgotten."""
ACCOUNT = Subject("account", LEAVER)
SHARED = 90
"""Number of a picture that the leaver and another account show."""
KEY = "key"
"""Of perception."""


def posts(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of two accounts that stay and of the leaver, a third each."""
    return [
        row(
            f"{account}-{i}",
            30.0 + i,
            *([f"{i}.png", f"{SHARED}.png"] if i in (first, first + 2) else [f"{i}.png"]),
            account=account,
        )
        for i in range(first, first + count)
        for account in [("al", "bo", LEAVER)[i % 3]]
    ]


class Grown:
    """A store that has grown over days; each method is a stage that has committed.

    Args:
        root: of the store.
        tmp: a local folder.
        name: of the dataset.
    """

    def __init__(self, root: str, tmp: Path, name: str = "acme") -> None:
        self.root, self.tmp, self.name = root, tmp, name
        self.pictures: set[str] = set()
        self._jobs = 0
        marker.ensure(root)

    def export(self, rows: Sequence[Mapping[str, Any]], lost: Sequence[str] = ()) -> str:
        """Write an export; images whose names are ``lost`` are not in it."""
        folder = self.tmp / f"export-{len(list(self.tmp.glob('export-*')))}"
        folder.mkdir(parents=True)
        (folder / "posts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
        for item in rows:
            for name in item["images"]:
                if name not in lost:
                    (folder / name).write_bytes(picture(int(name.removesuffix(".png"))))
        return str(folder)

    def job(self, stage: Stage, *rules: str, **inputs: str) -> Job:
        """A job that has begun."""
        self._jobs += 1
        recipe = load_recipe("tiny", [f"data.name={self.name}", *rules])
        task = store.join(
            self.root, "runs", "dag", f"{self.tmp.name}-{self.name}-{self._jobs}", stage
        )
        job = Job(
            stage=stage,
            recipe=recipe,
            inputs=inputs,
            store=self.root,
            root="dag/1",
            task=task,
            attempt=1,
        )
        write_job(job)
        return job

    def publish(self, job: Job) -> str:
        """Do an ingestion and publish it, without its commit."""
        scratch = self.tmp / f"scratch-{self._jobs}"
        scratch.mkdir(parents=True)
        root = store.join(self.root, "datasets", self.name)
        made = ingest(
            job.inputs.get("posts"),
            job.inputs.get("previous"),
            job.recipe.data,
            0,
            root=root,
            scratch=scratch,
            crew=OneProcess(),
        )
        space, family = Workspace(job, scratch), f"datasets/{self.name}"
        uri = space.publish(
            family, made.folder, kind=dataset.KIND, meta=made.meta, blobs=made.blobs
        )
        self._staged = made.staged
        return uri

    def ingest(self, *rules: str, **inputs: str) -> str:
        """A version of the dataset."""
        job = self.job(Stage.INGEST, *rules, **inputs)
        uri = self.publish(job)
        commit.commit(job.attempt_uri, {"dataset": uri}, {})
        staging.clear(store.join(self.root, "datasets", self.name), self._staged)
        return uri

    def perceive(self, source: str) -> str:
        """The same with a description of each image."""
        job = self.job(Stage.PERCEIVE, dataset=source)
        folder, parts = Workspace(job, self.tmp / f"p-{self._jobs}").fetch("dataset", dataset.KIND)
        kept = perceived.folder_of(self.root, KEY)
        blobs = dataset.shards(parts, tables.IMAGES)
        seen = []
        for entry in blobs:
            questions = [Question(i.sha256) for i in dataset.shard_images(source, entry)]
            look = Perceived(Description({"red": 1.0}, {"warm": 1.0}, {}))
            part = perceived.keep_part(
                perceived.table_of(
                    dict.fromkeys(questions, look), {q.sha256: (32, 32) for q in questions}
                ),
                kept,
            )
            seen.append(perceived.build_shard(kept, questions, dict.fromkeys(questions, part)))
        blobs = [*dataset.shards(parts, tables.POSTS), *blobs, *seen]
        uri = Workspace(job, self.tmp).publish(
            f"datasets/{self.name}",
            folder,
            kind=dataset.KIND,
            meta={**parts.meta, "perceived": True},
            blobs=tuple(blobs),
        )
        commit.commit(job.attempt_uri, {"dataset": uri}, {})
        return uri

    def output(
        self, stage: Stage, family: str, kind: str, files: Mapping[str, str], **inputs: str
    ) -> str:
        """Any other output, with what an attempt leaves beside it."""
        job = self.job(stage, **inputs)
        folder = self.tmp / f"output-{self._jobs}"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        uri = Workspace(job, self.tmp).publish(family, folder, kind=kind)
        for name in ("samples/epoch-0000.json", "checkpoints/step-000001/complete.json"):
            store.write_bytes(store.join(job.attempt_uri, name), text_of_leaver().encode())
        commit.commit(job.attempt_uri, {"x": uri}, {})
        return uri

    def trained(self, version: str) -> dict[str, str]:
        """Model, evaluation and report of a version."""
        model = self.output(
            Stage.FINETUNE_LLM, "models/boigllm", "boigllm", {"w": "weights"}, dataset=version
        )
        evaluation = self.output(
            Stage.EVALUATE_LLM,
            "evaluations/description",
            "description",
            {"truth.jsonl": text_of_leaver()},
            dataset=version,
            boigllm=model,
        )
        report = self.output(
            Stage.REPORT,
            "reports",
            "report",
            {"report.html": text_of_leaver(), "report.json": text_of_leaver()},
            dataset=version,
            description=evaluation,
        )
        return {"model": model, "evaluation": evaluation, "report": report}


def text_of_leaver() -> str:
    """What repeats the leaver's name."""
    return json.dumps({"account": LEAVER})


def grow(grown: Grown) -> dict[str, str]:
    """Two days, each perceived, and what was trained on the first; returns outputs by name."""
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    seen = grown.perceive(first)
    day = [*posts(9, 6), row("lost-77", 1.0, "77.png", account=LEAVER), {"id": "x", "images": []}]
    second = grown.ingest(
        posts=grown.export([*day, {**row("bad", 1.0, account=LEAVER), "likes": "?"}], ["77.png"]),
        previous=seen,
    )
    newest = grown.perceive(second)
    outputs = {"first": first, "seen": seen, "second": second, "newest": newest}
    outputs |= grown.trained(seen)
    # An attempt that died after it had published, and what a clean-up has taken away.
    job = grown.job(Stage.INGEST, posts=grown.export(posts(15, 3)))
    outputs["dead"] = grown.publish(job)
    for path, _ in store.list_files(first):
        trashed = f".trash/2026-01-01T00-00-00Z-0123abcd/datasets/{grown.name}/old/{path}"
        store.write_bytes(
            store.join(grown.root, trashed), store.read_bytes(store.join(first, path))
        )
    return outputs


def images_of(grown: Grown, account: str) -> set[str]:
    """Hashes of the images that an account's posts show, in any version."""
    hashes = set()
    for path, _ in store.list_files(grown.root):
        if path.startswith("datasets/") and path.endswith(f"/{tables.LABELS}"):
            for label in content(store.join(grown.root, path)):
                if label["post"].startswith(f"{account}-") and not label["negative"]:
                    hashes.add(label["image"])
    return hashes


def traces(root: str, needles: Sequence[str]) -> list[str]:
    """Files of a store that hold any of these texts, Parquet read cell by cell."""
    return [
        path
        for path, _ in store.list_files(root)
        if any(needle in text_of(store.join(root, path)) for needle in needles)
    ]


def text_of(uri: str) -> str:
    """All that a file holds, as a text."""
    if uri.endswith(".parquet"):
        return json.dumps(list(content(uri)), default=str)
    return store.read_bytes(uri).decode(errors="replace")


def content(uri: str) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file; of images their hash stands for the bytes."""
    table = pq.ParquetFile(pa.BufferReader(store.read_bytes(uri))).read(use_threads=False)
    pictures = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    yield from table.drop_columns(pictures).to_pylist()


def accounts_of(uri: str) -> set[str]:
    """Accounts of a version's samples."""
    return {sample.account for sample in dataset.read_samples(uri)}


def digest(uri: str) -> str:
    """Of an output, withdrawn or not."""
    return manifest.read_record(uri).digest()


def needles_of(grown: Grown) -> list[str]:
    """What no file may hold afterwards: name, ids, and hashes of images that only they show."""
    own = images_of(grown, LEAVER) - images_of(grown, "al") - images_of(grown, "bo")
    assert len(own) >= 4
    return [LEAVER, "lost-77", *sorted(own)]


def silent(line: str) -> None:
    """Takes a line of progress."""
