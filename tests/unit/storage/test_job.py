"""The frame of a stage: what it is told, how it ends, and what never gets written down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from boig_core.config import load_policy, load_recipe
from boig_core.errors import CorruptError, FencedError, InputError, StoreUnavailableError
from boig_core.storage import commit, job, manifest, store
from boig_core.storage import stage as stages


TRY = job.TaskTry(run_after="2026-01-01", number=1, limit=3)


def make_job(
    root: str, attempt: int = 1, run: str = "manual__2026-01-01T00:00:00+00:00", **inputs: str
) -> job.Job:
    return job.Job(
        stage=job.Stage.INGEST,
        recipe=load_recipe("tiny"),
        inputs=inputs,
        store=root,
        root=f"boig_ingest/{run}",
        task=store.join(root, "runs", "boig_ingest", run, "ingest"),
        attempt=attempt,
    )


def make_dataset(space: stages.Workspace) -> stages.Outcome:
    local = space.scratch / "out"
    local.mkdir()
    (local / "x.txt").write_text("content")
    return stages.Outcome(
        {"dataset": space.publish("datasets/d", local, kind="dataset", meta={"posts": 1})},
        {"posts": 1},
    )


def test_stage_commits_and_the_next_one_reads(root: str) -> None:
    first = make_job(root, posts="https://example.org/posts.jsonl")
    assert stages.run_stage(make_dataset, [job.write_job(first)]) == 0
    body = commit.read_commit(first.attempt_uri)
    assert body is not None
    assert body["metrics"]["posts"] == 1
    assert body["metrics"]["seconds"] >= 0
    dataset = body["outputs"]["dataset"]

    def reads(space: stages.Workspace) -> stages.Outcome:
        local, result = space.fetch("dataset", "dataset")
        assert (local / "x.txt").read_text() == "content"
        assert space.lineage().inputs == {"dataset": result.digest()}
        assert result.lineage.inputs == {"posts": "https://example.org/posts.jsonl"}
        return stages.Outcome()

    assert (
        stages.run_stage(reads, [job.write_job(make_job(root, run="next", dataset=dataset))]) == 0
    )
    again = stages.run_stage(
        lambda space: pytest.fail("a committed attempt does no work"), [job.write_job(first)]
    )
    assert again == 0


@pytest.mark.parametrize(
    ("exc", "code", "user"),
    [
        (InputError("posts.jsonl", "is empty", "give posts"), 2, True),
        (CorruptError("x", "is torn", "make it again"), 2, True),
        (StoreUnavailableError("s3://b", "is away", "try again"), 1, False),
        (ZeroDivisionError("division by zero"), 1, False),
    ],
)
def test_exit_codes_and_error_json(root: str, exc: Exception, code: int, user: bool) -> None:
    def work(space: stages.Workspace) -> stages.Outcome:
        raise exc

    this = make_job(root)
    assert stages.run_stage(work, [job.write_job(this)]) == code
    failure = commit.read_failure(this.attempt_uri)
    assert failure is not None
    assert (failure.type, failure.user) == (type(exc).__name__, user)
    assert commit.fate(this.attempt_uri) == "failed"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "0" * 64}, "policy 000000000000 of the job"),
        ({"recipe": load_recipe("tiny", ["reward.runtime_env=shell"])}, "reward.runtime_env"),
        ({"recipe": load_recipe("tiny", ["sd.base=someone/model"])}, "sd.base"),
        ({"inputs": {"posts": "s3://other/posts"}, "started_by": TRY}, "s3://other/posts"),
        ({"inputs": {"dataset": "s3://other/d"}, "started_by": TRY}, "s3://other/d"),
    ],
)
def test_a_stage_works_under_its_own_policy_alone(
    root: str, changes: dict[str, Any], says: str
) -> None:
    this = make_job(root).model_copy(update=changes)
    refused = stages.run_stage(lambda space: pytest.fail("it does no work"), [job.write_job(this)])
    assert refused == 2
    failure = commit.read_failure(this.attempt_uri)
    assert failure is not None
    assert failure.type == "PolicyError"
    assert failure.message.startswith(says)
    same = make_job(root, 2).model_copy(update={"policy": load_policy().digest()})
    assert stages.run_stage(make_dataset, [job.write_job(same)]) == 0


def test_fenced_attempt_does_no_work_and_late_fence_publishes_nothing(root: str) -> None:
    early, late = make_job(root, 1), make_job(root, 2)
    uri = job.write_job(early)
    commit.fence(early.attempt_uri)
    assert stages.run_stage(lambda space: pytest.fail("a fenced attempt does no work"), [uri]) == 1

    def fenced_meanwhile(space: stages.Workspace) -> stages.Outcome:
        commit.fence(space.job.attempt_uri)
        return make_dataset(space)

    assert stages.run_stage(fenced_meanwhile, [job.write_job(late)]) == 1
    failure = commit.read_failure(late.attempt_uri)
    assert failure is not None
    assert failure.type == FencedError.__name__
    with pytest.raises(CorruptError):
        manifest.read_manifest(late.output("datasets/d"))


def test_bad_command_line_and_bad_job_file(root: str) -> None:
    work = make_dataset
    assert stages.run_stage(work, []) == 2
    assert stages.run_stage(work, [store.join(root, "missing.json")]) == 2
    store.write_bytes(store.join(root, "job.json"), b"{}")
    assert stages.run_stage(work, [store.join(root, "job.json")]) == 2


def test_lost_store_does_not_hide_the_reason(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str, data: bytes) -> None:
        raise StoreUnavailableError(uri, "is away", "try again")

    def work(space: stages.Workspace) -> stages.Outcome:
        monkeypatch.setattr(store, "write_bytes", away)
        raise InputError("posts", "are wrong", "mend them")

    uri = job.write_job(make_job(root))
    assert stages.run_stage(work, [uri]) == 2


def test_what_cannot_be_tidied_up_is_no_failure(root: str) -> None:
    def after() -> None:
        done.append(commit.read_commit(created.attempt_uri) is not None)
        raise OSError("away")

    done: list[bool] = []
    created = make_job(root)
    assert (
        stages.run_stage(lambda space: stages.Outcome(after=after), [job.write_job(created)]) == 0
    )
    assert done == [True], "the outputs were committed before"


def test_lineage_of_raw_inputs(root: str, tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_bytes(b"{}")
    this = make_job(
        root,
        file=str(tmp_path / "posts.jsonl"),
        folder=str(tmp_path),
        web="https://example.org/p.jsonl",
    )
    assert stages.Workspace(this, tmp_path).lineage().inputs == {
        "file": hashlib.sha256(b"{}").hexdigest(),
        "folder": str(tmp_path),
        "web": "https://example.org/p.jsonl",
    }


def test_missing_input_is_named(root: str) -> None:
    with pytest.raises(InputError, match=r"input 'dataset'.*posts"):
        make_job(root, posts="p").input("dataset")


def test_no_secret_is_written(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not store.is_s3(root):  # on S3 the fixture's own secret must be the one in use
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-tests")
    uri = job.write_job(make_job(root, posts="posts.jsonl"))
    written = store.read_bytes(uri).decode()
    assert "secret-of-tests" not in written
    assert "key-of-tests" not in written
    with pytest.raises(InputError, match="carries credentials") as caught:
        job.write_job(
            make_job(root, attempt=7, posts="https://user:hush-hush@example.org/posts.jsonl")
        )
    assert "hush-hush" not in str(caught.value)
    assert commit.attempts(make_job(root).task) == [1], "nothing was written for the refused job"


def test_job_survives_its_file(root: str) -> None:
    this = make_job(root, posts="p")
    assert job.read_job(job.write_job(this)) == this
    tree = json.loads(store.read_bytes(job.write_job(this)))
    tree["extra"] = 1
    store.write_bytes(store.join(root, "j.json"), json.dumps(tree).encode())
    with pytest.raises(InputError, match="is not a job file"):
        job.read_job(store.join(root, "j.json"))


def test_versions_never_meet(tmp_path: Path) -> None:
    root = str(tmp_path)
    runs = ["manual__a", "manual-a", "Manual.a", "x" * 400, "x" * 401]
    versions = {make_job(root, attempt, run).version for run in runs for attempt in (1, 2)}
    assert len(versions) == 2 * len(runs)
    assert max(map(len, versions)) < 150
    assert make_job(root, 1, "a").version == make_job("/elsewhere", 1, "a").version, (
        "a version does not depend on where the store is"
    )


PLANTED = {
    "AWS_SESSION_TOKEN": "planted-aws-session",
    "BOIG_PROBE_SECRET_ACCESS_KEY": "planted-aws-secret",
    "RAY_AUTH_TOKEN": "planted-ray-token",
    "FEW_SHOT_KEY": "planted-few-shot-key",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
}


@pytest.mark.parametrize("fails", [False, True])
def test_log_is_kept_from_head_to_result_and_nothing_secret_is_written(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: bool
) -> None:
    this = make_job(root, posts="https://example.org/posts.jsonl")
    uri = job.write_job(this)
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:planted-in-address@127.0.0.1:1")
    everything = " ".join(
        [*PLANTED.values(), "http://me:planted-in-address@127.0.0.1:1", "planted-in-address"]
    )

    def work(space: stages.Workspace) -> stages.Outcome:
        stages.log.warning("a library complains about %s", everything)
        try:
            raise ConnectionError(everything)
        except ConnectionError:
            stages.log.exception("with a traceback")
        if fails:
            raise RuntimeError(everything)
        return make_dataset(space)

    assert stages.run_stage(work, [uri]) == (1 if fails else 0)
    lines = (
        store.read_bytes(store.join(this.attempt_uri, "log", "000001.txt")).decode().splitlines()
    )
    assert f"stage ingest · attempt 1 of {this.task}" in lines[0]
    assert f"recipe tiny ({this.recipe.digest()[:12]})" in lines[1]
    assert "input posts = https://example.org/posts.jsonl" in lines[2]
    assert "resources {" in lines[3]
    assert (
        "(infrastructure error): RuntimeError: " if fails else '{"outputs": {"dataset"'
    ) in lines[-1]
    assert "planted" not in capsys.readouterr().out
    for path, _ in store.list_files(root):
        assert b"planted" not in store.read_bytes(store.join(root, path)), path

    stages.run_stage(work, [uri])
    assert store.exists(store.join(this.attempt_uri, "log", "000002.txt")), (
        "a second process goes on after the first one's chunks"
    )
