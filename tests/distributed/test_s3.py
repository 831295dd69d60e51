"""The same stages on a folder and on S3 leave the same files; what a user got wrong stays a user
error through Ray."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.cluster.stage import run_stage
from boig_core.config import load_recipe
from boig_core.data import dataset, tables
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, write_job
from ray_jobs import ingest, perceive

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def s3_root(s3_bucket: str) -> str:
    """An empty store on S3, to which Ray's workers know the way."""
    return f"{s3_bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def export(tmp_path: Path) -> str:
    write_world(60, 5, Law.load("sunlit"), tmp_path / "export")
    return str(tmp_path / "export")


def run(root: str, stage: Stage, overrides: tuple[str, ...] = (), **inputs: str) -> tuple[int, Job]:
    recipe = load_recipe("tiny", overrides)
    task = store.join(root, "runs", "boig_ingest", "r1", stage.value)
    job = Job(
        stage=stage, recipe=recipe, inputs=inputs, store=root, root="test", task=task, attempt=1
    )
    return run_stage(
        {Stage.INGEST: ingest.work, Stage.PERCEIVE: perceive.work}[stage], [write_job(job)]
    ), job


def loop(root: str, posts: str) -> str:
    """URI of the described dataset."""
    uri = posts
    for stage, name in ((Stage.INGEST, "posts"), (Stage.PERCEIVE, "dataset")):
        code, job = run(root, stage, **{name: uri})
        assert code == 0
        done = commit.read_commit(job.attempt_uri)
        assert done is not None
        uri = done["outputs"]["dataset"]
    return uri


def outputs_and_runs(root: str) -> set[str]:
    """Paths of all files, but for the export and the logs: a log has a chunk for every few seconds
    that a stage takes."""
    paths = {path for path, _ in store.list_files(root)}
    return {path for path in paths if not path.startswith("export/") and "/log/" not in path}


def test_a_folder_and_s3_get_the_same_files(s3_root: str, export: str, tmp_path: Path) -> None:
    local_root = str(tmp_path / "store")
    in_s3 = store.join(s3_root, "export")
    store.upload_folder(Path(export), in_s3)
    local, remote = loop(local_root, export), loop(s3_root, in_s3)
    files = [outputs_and_runs(root) for root in (local_root, s3_root)]
    assert files[0] == files[1]
    assert len([path for path in files[0] if path.endswith("manifest.json")]) == 2
    own = {tables.REJECTS, tables.SOURCES}  # say where rows stood
    same = [
        {entry for entry in manifest.verify(uri).files if entry.path not in own}
        for uri in (local, remote)
    ]
    assert same[0] == same[1], "the same names, sizes and SHA-256, blobs included"
    assert dataset.read_samples(local) == dataset.read_samples(remote)
    assert dataset.read_images(remote, side=32).keys() == dataset.read_images(local, side=32).keys()


def test_wrong_model_is_a_user_error_through_ray(s3_root: str, export: str) -> None:
    code, job = run(s3_root, Stage.INGEST, posts=export)
    assert code == 0
    done = commit.read_commit(job.attempt_uri)
    assert done is not None
    code, job = run(
        s3_root,
        Stage.PERCEIVE,
        ("perception.clip=package:nope",),
        dataset=done["outputs"]["dataset"],
    )
    failure = commit.read_failure(job.attempt_uri)
    assert failure is not None
    assert (code, failure.type, failure.user) == (2, "InputError", True)
    assert "package:nope" in failure.message
