"""A small store as stages make it: a dataset with a shard, a model of it, a report of the model;
and one in which a person has decided on a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from boig_core.config import load_recipe
from boig_core.storage import commit, manifest, store
from boig_core.storage.evidence import APPROVED
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.manifest import FileEntry
from boig_core.storage.stage import Workspace

RUN = "runs/boig_promote/manual-1"
SHARD = b"a shard that versions share"


def job_of(root: str, stage: Stage, run: str = "run", **inputs: str) -> Job:
    return Job(
        stage=stage,
        recipe=load_recipe("tiny"),
        inputs=inputs,
        store=root,
        root=f"dag/{run}",
        task=store.join(root, "runs", "dag", run, stage.value),
        attempt=1,
    )


def stage_of(
    root: str,
    tmp: Path,
    stage: Stage,
    family: str,
    blobs: tuple[FileEntry, ...] = (),
    kind: str | None = None,
    run: str = "run",
    **inputs: str,
) -> str:
    """A stage that has committed one output of two files."""
    job = job_of(root, stage, run, **inputs)
    write_job(job)
    local = tmp / "outputs" / stage.value
    (local / "part").mkdir(parents=True, exist_ok=True)
    (local / "weights.bin").write_bytes(f"weights of {stage}".encode())
    (local / "part" / "config.json").write_text("{}")
    kind = kind or stage.value
    uri = Workspace(job, tmp).publish(family, local, kind=kind, blobs=blobs, meta={"n": 1.5})
    store.write_bytes(store.join(job.attempt_uri, "log", "000001.txt"), b"a line\n")
    commit.commit(job.attempt_uri, {"x": uri}, {"seconds": 1.5})
    return uri


def build(root: str, tmp: Path) -> list[str]:
    """The store; returns its outputs, each made from the one before."""
    shard = FileEntry(
        path="../blobs/images-1.parquet", size=len(SHARD), sha256=hashlib.sha256(SHARD).hexdigest()
    )
    store.write_bytes(store.join(root, "datasets/acme/blobs/images-1.parquet"), SHARD)
    dataset = stage_of(
        root, tmp, Stage.INGEST, "datasets/acme", (shard,), posts="https://x.y/posts.jsonl"
    )
    model = stage_of(root, tmp, Stage.DDPO, "models/boigsd", dataset=dataset)
    report = stage_of(root, tmp, Stage.REPORT, "reports", dataset=dataset, model=model)
    # An attempt that was fenced after it had written its manifest.
    dead = job_of(root, Stage.DDPO, "dead", dataset=dataset)
    write_job(dead)
    Workspace(dead, tmp).publish("models/boigsd", tmp / "outputs" / "ddpo", kind="ddpo")
    commit.fence(dead.attempt_uri)
    store.write_bytes(store.join(root, "boig-store.json"), b'{"id": "a"}')
    return [dataset, model, report]


def promote(root: str, tmp: Path, answer: str = APPROVED) -> tuple[str, str]:
    """A store in which a person has decided; returns the decision and the model."""
    dataset, _, _ = build(root, tmp)
    model = publish(root, tmp, Stage.FINETUNE_SD, "models/boigsd", "sd", dataset=dataset)
    report = publish(root, tmp, Stage.EVALUATE_LLM, "reports", "report", model=model)
    return decide(root, model, report, answer), model


def publish(root: str, tmp: Path, stage: Stage, family: str, kind: str, **inputs: str) -> str:
    folder = tmp / "outputs" / stage.value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text("{}")
    uri = stage_of(root, tmp, stage, family, kind=kind, **inputs)
    assert manifest.read_manifest(uri).kind == kind
    return uri


def decide(root: str, model: str, report: str, answer: str = APPROVED, run: str = RUN) -> str:
    body = {
        "candidate": model.removeprefix(f"{root}/"),
        "report": report.removeprefix(f"{root}/"),
        "manifest": manifest.read_manifest(model).digest(),
        "decision": answer,
    }
    store.write_bytes(store.join(root, run, "recipe.json"), b'{"name": "acme"}')
    decision = store.join(root, run, "decision.json")
    store.write_bytes(decision, json.dumps(body).encode())
    return decision


def as_schema_1(root: str, names: str | None = None) -> None:
    """Write the files of a store as boig wrote them before schema 2.

    Args:
        root: of the store.
        names: root that its files name; None: its own.
    """
    home = names or root

    def there(uri: str) -> str:
        return uri.replace(root, home)

    written: dict[str, dict[str, Any]] = {}
    for path, _ in store.list_files(root):
        uri = store.join(root, path)
        folder, name = uri.rsplit("/", 1)
        if name == commit.COMMIT and (body := commit.read_commit(folder)) is not None:
            written[uri] = {
                **body,
                "outputs": {key: there(at) for key, at in body["outputs"].items()},
            }
        elif name == manifest.MANIFEST:
            tree = manifest.read_written(folder).model_dump(
                mode="json", exclude={"place", "went_on_from"}
            )
            written[uri] = {**tree, "schema_version": 1, "commit": there(tree["commit"])}
        elif name == "job.json":
            tree = json.loads(store.read_bytes(uri))
            inputs = {
                key: at if "://" in at else store.join(home, at)
                for key, at in tree["inputs"].items()
            }
            task = store.join(home, tree["task"])
            written[uri] = {
                **tree, "schema_version": 1, "inputs": inputs, "store": home, "task": task,
            }  # fmt: skip
    for uri, tree in written.items():
        store.write_bytes(uri, json.dumps(tree, indent=1).encode())


def digest_of_schema_1(uri: str) -> str:
    """Digest of a manifest as boig took it before schema 2."""
    tree = json.loads(store.read_bytes(store.join(uri, manifest.MANIFEST)))
    del tree["commit"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
