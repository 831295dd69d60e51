"""What the store tells of runs: states, reasons, logs, and how a run is found by a part of its
name."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from boig_core import environment
from boig_core.cli import app
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.storage import commit, job, runs, store
from boig_core.storage import stage as stages


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


def fails(space: stages.Workspace) -> stages.Outcome:
    raise InputError("posts.jsonl", "is empty", "give posts")


def works(space: stages.Workspace) -> stages.Outcome:
    store.write_bytes(
        store.join(space.job.attempt_uri, "metrics.jsonl"),
        b'{"step": 1, "reward": 1.0}\n{"step": 2, "reward": 2.5}\n',
    )
    stages.log.info("half way")
    return stages.Outcome({"model": store.join(space.job.store, "model")}, {"reward": 2.5})


def test_states_and_logs_of_a_run(root: str) -> None:
    run = "boig_sd/manual-7"
    assert (
        stages.run_stage(fails, [store.join(begin(root, run, "ddpo", 1).attempt_uri, "job.json")])
        == 2
    )
    commit.fence(commit.attempt_uri(store.join(root, "runs", run, "ddpo"), 1))
    assert (
        stages.run_stage(works, [store.join(begin(root, run, "ddpo", 2).attempt_uri, "job.json")])
        == 0
    )
    begin(root, run, "evaluate_sd/3", 1)
    begin(root, "boig_sd/manual-70", "ddpo", 1)

    states = runs.run_state(root, run)
    assert sorted((s.task, s.attempt, s.state) for s in states) == [
        ("ddpo", 1, "fenced"),
        ("ddpo", 2, "committed"),
        ("evaluate_sd/3", 1, "open"),
    ]
    second = runs.find_attempt(states, run, "ddpo")
    assert (second.attempt, second.outputs, second.last) == (
        2,
        {"model": store.join(root, "model")},
        {"step": 2, "reward": 2.5},
    )
    first = runs.find_attempt(states, run, "ddpo", 1)
    assert first.failure is not None
    assert first.failure.user
    text = "\n".join(runs.status_lines(states))
    assert "ddpo · attempt 1 · fenced (user error)" in text
    assert "InputError: posts.jsonl: is empty; give posts" in text
    assert "last row: step 2 · reward 2.5" in text
    assert "open: running, or died without a word" in text

    followed = "".join(runs.follow_log(second.uri, poll_s=0))
    assert followed.splitlines()[0].endswith(
        f"attempt 2 of {store.join(root, 'runs', run, 'ddpo')}"
    )
    assert "half way" in followed
    assert list(runs.read_log(second.uri, "000001.txt")) == [], (
        "a cursor at the end repeats nothing"
    )

    ask = CliRunner().invoke
    assert runs.find_run(root, run) == run, "a whole name wins over being a part of another"
    assert len(json.loads(ask(app, ["status", "--store", root, "--json"]).output)) == 2
    assert (
        json.loads(ask(app, ["status", "manual-70", "--store", root, "--json"]).output)["run"]
        == "boig_sd/manual-70"
    )
    assert (
        "posts.jsonl: is empty"
        in ask(app, ["logs", run, "ddpo", "--attempt", "1", "--store", root]).output
    )


def test_a_look_for_new_chunks_costs_one_request_however_long_the_log_is(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = store.join(root, "attempt-1")
    for number in (7, 8, 999_999, 1_000_000):
        store.write_bytes(
            store.join(attempt, "log", stages.log_chunk(number)), str(number).encode()
        )
    assert [text for _, text in runs.read_log(attempt, "000006.txt")] == ["7", "8"]
    assert [text for _, text in runs.read_log(attempt, "999999.txt")] == ["1000000"], (
        "numbers count, not the order of names"
    )
    real, asked = store.read_bytes, []
    monkeypatch.setattr(store, "read_bytes", lambda uri: asked.append(uri) or real(uri))
    monkeypatch.setattr(store, "list_with_times", None)
    assert list(runs.read_log(attempt, "000008.txt")) == []
    assert len(asked) == 1


def with_gpus(root: str, run: str, stage: str, attempt: int, *overrides: str) -> job.Job:
    recipe = load_recipe(
        "tiny",
        [
            "resources.gpus=1",
            "ddpo.workers=1",
            "ddpo.rollout_actors=2",
            "reward.actors=1",
            *overrides,
        ],
    )
    task = store.join(root, "runs", run, stage)
    this = job.Job(
        stage=job.Stage(stage),
        recipe=recipe,
        inputs={},
        store=root,
        root=run,
        task=task,
        attempt=attempt,
    )
    job.write_job(this)
    return this


def test_gpu_hours_idle_share_and_cost_count_failed_attempts_too(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "boig_sd/manual-8"
    lost = with_gpus(root, run, "ddpo", 1)
    commit.commit(lost.attempt_uri, {}, {"seconds": 900.0})
    second = with_gpus(root, run, "ddpo", 2)
    idle = {"idle_learner": 0.75, "idle_rollout_actors": 0.25, "idle_reward_actors": 0.25}
    rows = [{"step": n, "seconds_rollouts": 30.0, "seconds_update": 10.0, **idle} for n in range(2)]
    store.write_bytes(
        store.join(second.attempt_uri, "metrics.jsonl"),
        "".join(json.dumps(row) + "\n" for row in rows).encode(),
    )
    commit.commit(second.attempt_uri, {}, {"seconds": 1800.0})
    commit.commit(with_gpus(root, run, "report", 1).attempt_uri, {}, {"seconds": 60.0})
    monkeypatch.setenv(environment.GPU_HOUR_PRICE.name, "2.5")
    result = runs.summarize(run, runs.run_state(root, run))
    ddpo = result["stages"]["ddpo"]
    assert (ddpo["attempts"], ddpo["seconds"], ddpo["gpu_hours"], ddpo["cost"]) == (
        2,
        2700.0,
        3.0,
        7.5,
    )
    # Of 4 GPUs the learner's waits three quarters of the time, the other three wait a quarter of
    # it.
    assert ddpo["idle"] == 0.375
    assert result["stages"]["report"]["gpu_hours"] == 0.0
    assert (result["seconds"], result["gpu_hours"], result["cost"]) == (2760.0, 3.0, 7.5)
    messages = CliRunner().invoke(app, ["status", run, "--store", root]).output
    assert (
        messages.splitlines()[-1]
        == "in all 2760 s · at most 3.00 GPU-hours · cost at most 7.50 · ddpo: GPUs idle 38%"
    )
    commit.commit(with_gpus(root, run, "evaluate_llm", 1).attempt_uri, {}, {"seconds": 60.0})
    unknown = runs.summarize(run, runs.run_state(root, run))
    assert (unknown["gpu_hours"], unknown["cost"]) == (None, None)
    assert "GPU-hours not known for evaluate_llm" in runs.summary_line(unknown)


def test_a_stage_says_what_it_may_use_and_what_it_has_used(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.GPU_HOUR_PRICE.name, "2.5")
    this = with_gpus(root, "boig_sd/manual-9", "finetune_sd", 1, "sd.workers=2")
    assert (
        stages.run_stage(lambda space: stages.Outcome(), [store.join(this.attempt_uri, "job.json")])
        == 0
    )
    metrics = (commit.read_commit(this.attempt_uri) or {})["metrics"]
    assert metrics["gpu_hours"] == pytest.approx(2 * metrics["seconds"] / 3600, abs=1e-4)
    assert metrics["cost"] == pytest.approx(2.5 * metrics["gpu_hours"], abs=0.01)
    assert "2 GPUs in all" in "".join(text for _, text in runs.read_log(this.attempt_uri))


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_price_that_is_none_is_said_before_the_work(
    root: str, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(environment.GPU_HOUR_PRICE.name, text)
    this = with_gpus(root, "boig_sd/manual-10", "ddpo", 1)
    assert (
        stages.run_stage(
            lambda space: pytest.fail("worked"), [store.join(this.attempt_uri, "job.json")]
        )
        == 2
    )
    failure = commit.read_failure(this.attempt_uri)
    assert failure is not None
    assert environment.GPU_HOUR_PRICE.name in failure.message


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
