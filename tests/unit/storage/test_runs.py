"""What the store tells of runs: states, reasons, logs, and how a run is found by a part of its name."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.storage import commit, job, runs, store


def begin(root: str, run: str, task: str, attempt: int) -> job.Job:
    this = job.Job(
        stage=job.Stage.DDPO,
        recipe=load_recipe("tiny"),
        inputs={},
        store=root,
        root=run,
        task=store.join(root, "runs", run, task),
        attempt=attempt,
    )
    job.write_job(this)
    return this


def test_states_and_logs_of_a_run(root: str) -> None:
    def fails(space: job.Workspace) -> job.Outcome:
        raise InputError("posts.jsonl", "is empty", "give posts")

    def works(space: job.Workspace) -> job.Outcome:
        store.write_bytes(store.join(space.job.attempt_uri, "metrics.jsonl"), b'{"step": 1, "reward": 1.0}\n{"step": 2, "reward": 2.5}\n')
        job.log.info("half way")
        return job.Outcome({"model": "s3://b/model"}, {"reward": 2.5})

    run = "boig_sd/manual-7"
    assert job.run_stage(fails, [store.join(begin(root, run, "ddpo", 1).attempt_uri, "job.json")]) == 2
    commit.fence(commit.attempt_uri(store.join(root, "runs", run, "ddpo"), 1))
    assert job.run_stage(works, [store.join(begin(root, run, "ddpo", 2).attempt_uri, "job.json")]) == 0
    begin(root, run, "evaluate_sd/3", 1)
    begin(root, "boig_sd/manual-70", "ddpo", 1)

    states = runs.run_state(root, run)
    assert sorted((s.task, s.attempt, s.state) for s in states) == [
        ("ddpo", 1, "fenced"),
        ("ddpo", 2, "committed"),
        ("evaluate_sd/3", 1, "open"),
    ]
    second = runs.find_attempt(states, run, "ddpo")
    assert (second.attempt, second.outputs, second.last) == (2, {"model": "s3://b/model"}, {"step": 2, "reward": 2.5})
    first = runs.find_attempt(states, run, "ddpo", 1)
    assert first.failure is not None
    assert first.failure.user
    text = "\n".join(runs.status_lines(states))
    assert "ddpo · attempt 1 · fenced (user error)" in text
    assert "InputError: posts.jsonl: is empty; give posts" in text
    assert "last row: step 2 · reward 2.5" in text
    assert "open: running, or died without a word" in text

    followed = "".join(runs.follow_log(second.uri, poll_s=0))
    assert followed.splitlines()[0].endswith(f"attempt 2 of {store.join(root, 'runs', run, 'ddpo')}")
    assert "half way" in followed
    assert list(runs.read_log(second.uri, "000001.txt")) == [], "a cursor at the end repeats nothing"

    ask = CliRunner().invoke
    assert runs.find_run(root, run) == run, "a whole name wins over being a part of another"
    assert len(json.loads(ask(app, ["status", "--store", root, "--json"]).output)) == 2
    assert json.loads(ask(app, ["status", "manual-70", "--store", root, "--json"]).output)["run"] == "boig_sd/manual-70"
    assert "posts.jsonl: is empty" in ask(app, ["logs", run, "ddpo", "--attempt", "1", "--store", root]).output


def test_what_is_not_there_is_said_with_what_is(root: str) -> None:
    with pytest.raises(InputError, match="holds no runs yet"):
        runs.find_run(root, "latest")
    for run in ("boig_sd/a-1", "boig_sd/a-2"):
        begin(root, run, "ddpo", 1)
    with pytest.raises(InputError, match="part of 2 runs; name one of: boig_sd/a-"):
        runs.find_run(root, "sd/a")
    with pytest.raises(InputError, match=r"no run of this store; name one of: .*boig_sd/a-1"):
        runs.find_run(root, "boig_ds/a-1")
    assert runs.find_run(root, "latest") in {"boig_sd/a-1", "boig_sd/a-2"}
    states = runs.run_state(root, "boig_sd/a-1")
    with pytest.raises(InputError, match="name one of: ddpo"):
        runs.find_attempt(states, "boig_sd/a-1", "dpo")
    with pytest.raises(InputError, match="use one of: 1"):
        runs.find_attempt(states, "boig_sd/a-1", "ddpo", 4)
