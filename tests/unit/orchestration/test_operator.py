"""The operator against a Jobs API and Kubernetes, on real sockets: what each try does, what an end
means, what a kill may stop."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from boig_core.config import load_recipe
from boig_core.errors import (
    ClusterError,
    InfrastructureError,
    InputError,
    StoreUnavailableError,
    UserError,
)
from boig_core.orchestration.jobs.trigger import GONE, UNREACHABLE
from boig_core.orchestration.signals import counts
from boig_core.orchestration.stage import operator as operators
from boig_core.orchestration.stage.attempts import submission_id, task_uri
from boig_core.orchestration.stage.operator import STATE, RayJobOperator, resolve_input
from boig_core.orchestration.stage.retries import POLICY
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, read_job
from boig_core.storage.stage import Workspace


class Run:
    """A task of a run in a store, tried as often as a test says."""

    def __init__(self, folder: Path, api: Any) -> None:
        self.root = str(folder)
        self.task = task_uri(self.root, "d", "r", "ingest")
        self.state: dict[str, Any] = {}
        recipe = f"{self.root}/recipe.json"
        store.write_bytes(recipe, load_recipe("tiny").model_dump_json().encode())
        self.plan = {"store": self.root, "recipe": recipe, "root": "d/r", "outputs": {}}

    def name(self, attempt: int) -> str:
        return submission_id(self.task, attempt)

    def attempt(self, number: int) -> str:
        return commit.attempt_uri(self.task, number)

    def context(
        self, number: int, limit: int, task: str = "ingest", index: int = -1
    ) -> dict[str, Any]:
        key = {"dag_id": "d", "run_id": "r", "task_id": task, "map_index": index}
        ti = SimpleNamespace(**key, try_number=number, max_tries=limit, xcom_push=lambda **_: None)
        run = {"run_after": datetime(2026, 1, 1, tzinfo=UTC), "triggering_user_name": "ann"}
        return {
            "ti": ti,
            "dag_run": SimpleNamespace(**run),
            "task_state_store": SimpleNamespace(set=self.state.__setitem__),
        }

    def operator(self, **arguments: Any) -> RayJobOperator:
        return RayJobOperator(
            task_id="ingest",
            stage="ingest",
            plan=self.plan,
            inputs={"posts": "/posts"},
            poll_s=0.01,
            **arguments,
        )

    def defers(self, number: int = 1, limit: int = 3) -> Any:
        """The trigger of a try that defers."""
        with pytest.raises(TaskDeferred) as caught:
            self.operator().execute(self.context(number, limit))
        return caught.value.trigger


@pytest.fixture
def api(either: Any) -> Any:
    return either


@pytest.fixture
def run(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("RAY_API_ADDRESS", api.address)
    monkeypatch.setattr(
        operators, "stop_and_see", lambda jobs, name: real_stop(jobs, name, 5.0, 0.01)
    )
    return Run(tmp_path, api)


real_stop = operators.stop_and_see


def test_the_first_try_starts_a_job_that_says_whose_it_is(run: Run, api: Any) -> None:
    trigger = run.defers()
    [post] = api.posts
    assert post["submission_id"] == trigger.submission_id == run.name(1)
    place = {"dag": "d", "run": "r", "task": "ingest", "map": "-1", "try": "1", "store": run.root}
    assert post["metadata"] == {
        **place,
        "stage": "ingest",
        "attempt": "1",
        "root": "d/r",
        "airflow": conf.get("api", "base_url", fallback=""),
    }
    job = read_job(f"{run.attempt(1)}/job.json")
    assert (job.started_by.number, job.started_by.limit, job.triggered_by) == (1, 3, ("ann",))
    assert post["entrypoint"] == f"python -m ray_jobs.ingest {run.attempt(1)}/job.json"
    assert run.state[STATE] == {
        "attempt": run.attempt(1),
        "submission_id": run.name(1),
        "job_url": api.cluster.page(run.name(1)),
    }


def test_a_retry_adopts_a_live_job_uses_a_committed_one_and_follows_a_failed_one(
    run: Run, api: Any
) -> None:
    run.defers()
    assert run.defers(2).submission_id == run.name(1)
    commit.write_failure(run.attempt(1), StoreUnavailableError("s3://b", "is away", "wait"))
    api.states[run.name(1)] = ["FAILED"]
    assert run.defers(3).submission_id == run.name(2)
    commit.commit(run.attempt(2), {"dataset": f"{run.root}/d"}, {})
    assert run.operator().execute(run.context(4, 3))["attempt"] == run.attempt(2)
    assert [post["submission_id"] for post in api.posts] == [run.name(1), run.name(2)]
    assert api.stopped == []


def test_what_a_try_needs_is_found_by_name_when_its_own_notes_were_lost(run: Run, api: Any) -> None:
    run.defers()
    run.state.clear()
    assert run.defers(2).submission_id == run.name(1)
    assert len(api.posts) == 1


def test_a_job_that_vanished_with_its_head_node_is_fenced_and_started_again(
    run: Run, api: Any
) -> None:
    run.defers()
    api.states.clear()
    assert run.defers(2).submission_id == run.name(2)
    assert commit.fate(run.attempt(1)) == "fenced"


@pytest.mark.parametrize("committed", [False, True])
def test_the_try_after_a_clear_stops_the_old_job_and_starts_the_next_attempt(
    run: Run, api: Any, committed: bool
) -> None:
    run.defers()
    if committed:
        commit.commit(run.attempt(1), {"dataset": f"{run.root}/d"}, {})
        api.states[run.name(1)] = ["SUCCEEDED"]
    assert run.defers(2, limit=4).submission_id == run.name(2)
    assert api.was_stopped(run.name(1)) != committed
    assert commit.fate(run.attempt(1)) == ("committed" if committed else "fenced")


def test_each_index_of_a_mapped_task_has_attempts_and_jobs_of_its_own_and_a_clear_stops_one(
    run: Run, api: Any
) -> None:
    def tries(index: int, number: int, limit: int) -> str:
        with pytest.raises(TaskDeferred) as caught:
            run.operator().execute(run.context(number, limit, index=index))
        return str(caught.value.trigger.submission_id)  # type: ignore[attr-defined]

    tasks = [task_uri(run.root, "d", "r", "ingest", index) for index in range(2)]
    first = [tries(index, 1, 3) for index in range(2)]
    assert first == [submission_id(task, 1) for task in tasks]
    assert [post["metadata"]["map"] for post in api.posts] == ["0", "1"]
    assert [tries(0, 2, 3), tries(1, 2, 4)] == [first[0], submission_id(tasks[1], 2)]
    assert [api.was_stopped(name) for name in first] == [False, True]
    assert [commit.fate(commit.attempt_uri(task, 1)) for task in tasks] == ["open", "fenced"]


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Job:
    """A baseline that another run has made."""
    task = task_uri(run.root, "boig_sd", "other", "finetune_sd")
    job = Job(
        stage=Stage.FINETUNE_SD,
        recipe=load_recipe("tiny"),
        inputs={"dataset": "/d"},
        store=run.root,
        root="r",
        task=task,
        attempt=1,
    )
    (tmp_path / "folder").mkdir()
    uri = Workspace(job, tmp_path).publish("models/high-kpi", tmp_path / "folder", kind="sd")
    commit.commit(job.attempt_uri, {"high_kpi": uri}, {})
    return job


def test_what_another_run_has_made_of_the_same_is_used(
    run: Run, api: Any, made: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(counts, "took", lambda stage, seconds: counted.append(stage))
    mine = RayJobOperator(
        task_id="finetune_sd",
        stage="finetune_sd",
        plan=run.plan,
        inputs={"dataset": "/d"},
        reuse=True,
        retries=3,
    )
    assert mine.execute(run.context(1, 3, "finetune_sd"))["attempt"] == made.attempt_uri
    assert api.posts == []
    assert counted == [], "its seconds were counted in the run that has made it"


@pytest.mark.parametrize(
    ("changed", "limit"),
    [({"reuse": False}, 3), ({"inputs": {"dataset": "/other"}}, 3), ({}, 4)],
    ids=["not asked for", "of something else", "cleared: wanted anew"],
)
def test_the_same_is_made_again_where_it_is_not_the_same_or_wanted_anew(
    run: Run, api: Any, made: Job, changed: dict[str, Any], limit: int
) -> None:
    values = {"plan": run.plan, "inputs": {"dataset": "/d"}, "reuse": True, "retries": 3, **changed}
    with pytest.raises(TaskDeferred):
        RayJobOperator(task_id="finetune_sd", stage="finetune_sd", **values).execute(
            run.context(1, limit, "finetune_sd")
        )
    assert len(api.posts) == 1


def test_a_plan_that_was_marked_as_success_is_named(run: Run, api: Any) -> None:
    ingest = RayJobOperator(task_id="ingest", stage="ingest", plan={}, inputs={})
    ingest.plan = None
    with pytest.raises(InputError, match=r"the task plan: was marked as success"):
        ingest.execute(run.context(1, 3))
    assert api.posts == []


def test_a_plan_that_says_so_is_skipped_with_its_reason(run: Run, api: Any) -> None:
    skipped = RayJobOperator(
        task_id="ingest",
        stage="ingest",
        plan={**run.plan, "skip": "its BoigLLM has failed"},
        inputs={},
    )
    with pytest.raises(AirflowSkipException, match="its BoigLLM has failed"):
        skipped.execute(run.context(1, 3))
    assert api.posts == []


def test_an_old_job_that_does_not_stop_keeps_the_next_from_starting(
    run: Run, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.defers()
    api.stubborn.add(run.name(1))
    monkeypatch.setattr(
        operators, "stop_and_see", lambda jobs, name: real_stop(jobs, name, 0.05, 0.01)
    )
    with pytest.raises(ClusterError, match="still RUNNING"):
        run.operator().execute(run.context(2, 4))
    assert len(api.posts) == 1


def test_without_a_triggerer_the_worker_waits(
    run: Run, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_DEFERRABLE", "false")
    operator, done = run.operator(), []
    thread = threading.Thread(target=lambda: done.append(operator.execute(run.context(1, 3))))
    thread.start()
    while not api.posts:
        thread.join(0.01)
    commit.commit(run.attempt(1), {"dataset": f"{run.root}/d"}, {"rows": 1})
    api.states[run.name(1)] = ["SUCCEEDED"]
    thread.join(30)
    assert done == [
        {"outputs": {"dataset": f"{run.root}/d"}, "metrics": {"rows": 1}, "attempt": run.attempt(1)}
    ]


@pytest.mark.parametrize(
    ("state", "stops"), [("failed", True), ("restarting", True), ("running", False), (None, True)]
)
def test_a_worker_that_is_killed_while_it_waits_asks_before_it_stops(
    run: Run, api: Any, monkeypatch: pytest.MonkeyPatch, state: str | None, stops: bool
) -> None:
    monkeypatch.setattr(
        RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: {"r": {"ingest": state}})
    )
    operator, killed = run.operator(deferrable=False), threading.Event()

    def on_term(
        *_: Any,
    ) -> None:  # as Airflow's task runner does it: in the main thread, amid the event loop
        operator.on_kill()
        killed.set()
        if not stops:
            api.states[run.name(1)] = ["STOPPED"]

    def kill() -> None:
        while len(api.asked) < 4:
            killed.wait(0.01)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, on_term)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(InfrastructureError, match=r"STOPPED|GONE"):
            operator.execute(run.context(1, 3))
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, before)
    assert killed.is_set()
    assert (run.name(1) in api.stopped) == stops


def test_a_cluster_that_is_away_for_a_moment_is_asked_again(run: Run, api: Any) -> None:
    api.down = True
    up = threading.Thread(target=lambda: [wait(api), setattr(api, "down", False)])
    up.start()
    assert run.defers().submission_id == run.name(1)
    up.join()


def wait(api: Any) -> None:
    while not api.asked:
        threading.Event().wait(0.01)


def action(exc: BaseException) -> str:
    return POLICY.evaluate(exc, 1, 3).action.value


def test_a_user_error_fails_at_once_and_an_infrastructure_error_is_retried(
    operator: RayJobOperator, tmp_path: Path
) -> None:
    assert operator.retry_policy is POLICY
    event = {"status": "FAILED", "message": "exit code 2", "job_url": "", "submission_id": "boig-x"}
    commit.write_failure(str(tmp_path / "a"), InputError("posts.jsonl", "is empty", "give posts"))
    with pytest.raises(
        UserError, match=r"ingest: InputError: posts.jsonl: is empty; give posts"
    ) as user:
        operator.execute_complete({}, {**event, "attempt": str(tmp_path / "a")})
    assert action(user.value) == "fail"
    commit.write_failure(str(tmp_path / "b"), StoreUnavailableError("s3://x", "is away", "wait"))
    with pytest.raises(InfrastructureError, match="is away") as away:
        operator.execute_complete({}, {**event, "attempt": str(tmp_path / "b")})
    assert action(away.value) == "default"


@pytest.mark.parametrize("status", [GONE, UNREACHABLE, "FAILED"])
def test_an_end_without_a_word_is_retried_and_only_then_is_ray_asked_for_output(
    run: Run, api: Any, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    api.states["boig-x"] = ["FAILED"]
    event = {
        "status": status,
        "message": "hm",
        "attempt": run.attempt(1),
        "job_url": "",
        "submission_id": "boig-x",
    }
    with pytest.raises(
        InfrastructureError, match=f"no commit and no error.json; Ray says {status}: hm"
    ):
        run.operator().execute_complete({}, event)
    assert ("python: no module ray_jobs" in capsys.readouterr().out) == (status == "FAILED")
    api.asked.clear()
    store.write_bytes(f"{run.attempt(1)}/log/000001.txt", b"a line\n")
    with pytest.raises(InfrastructureError):
        run.operator().execute_complete({}, event)
    assert api.asked == []


def test_a_commit_counts_whatever_ray_says(operator: RayJobOperator, tmp_path: Path) -> None:
    commit.commit(str(tmp_path / "a"), {"dataset": f"{tmp_path}/d"}, {"rows": 1})
    event = {
        "status": "FAILED",
        "message": "the node died while the job was ending",
        "attempt": str(tmp_path / "a"),
        "job_url": "",
    }
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": f"{tmp_path}/d"}


def test_an_unknown_stage_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        RayJobOperator(task_id="x", stage="nonsense", plan={}, inputs={})


def test_inputs_are_uris_or_earlier_results() -> None:
    assert resolve_input("dataset", {"outputs": {"dataset": "s3://b/d"}}) == "s3://b/d"
    assert resolve_input("dataset", "s3://b/e") == "s3://b/e"
    assert resolve_input("previous", {"outputs": {"posts": "s3://b/p"}}) is None
    assert resolve_input("dataset", None) is None, "its task was marked as success"
