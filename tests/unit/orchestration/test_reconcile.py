"""Jobs that nobody wants are stopped, all others are left alone, and what cannot be said is not
guessed."""

from __future__ import annotations

from typing import Any

import pytest

from boig_core.errors import InfrastructureError, InputError
from boig_core.orchestration.airflow_state import AT_WORK, TaskKey
from boig_core.orchestration.roots import store_root
from boig_core.orchestration.stage.operator import belongs_to
from boig_core.orchestration.stage.reconcile import reconcile


@pytest.fixture
def api(either: Any) -> Any:
    return either


def put(api: Any, name: str, status: str = "RUNNING", **other: str) -> None:
    """A job of a task named like it."""
    api.states[name] = [status]
    api.metadata[name] = {
        "dag": "d",
        "run": "r",
        "task": name,
        "map": "-1",
        **belongs_to("s3://b"),
        **other,
    }


def run(api: Any, states: dict[str, Any]) -> dict[str, Any]:
    def state(task: TaskKey) -> str:
        result = states[task.task_id]
        if isinstance(result, Exception):
            raise result
        return str(result)

    return reconcile(api.cluster, "s3://b", state)


def test_only_jobs_whose_task_is_not_at_work_are_stopped(api: Any) -> None:
    over = ["failed", "success", "cleared", "deleted", "skipped", "removed"]
    for state in [*over, *AT_WORK]:
        put(api, state)
    put(api, "finished", status="SUCCEEDED")
    result = run(api, {state: state for state in [*over, *AT_WORK]})
    assert result == {
        "live": len(over) + len(AT_WORK),
        "stopped": {state: state for state in over},
        "unknown": [],
    }
    assert {name for name in [*over, *AT_WORK, "finished"] if api.was_stopped(name)} == set(over)


def test_what_is_not_ours_is_not_even_asked_about(api: Any) -> None:
    api.states["somebody-elses"] = ["RUNNING"]
    put(api, "other-store", store="s3://c")
    put(api, "other-airflow", airflow="http://laptop:8080")
    assert run(api, {}) == {"live": 0, "stopped": {}, "unknown": []}
    assert api.stopped == []


def test_a_job_whose_tasks_state_is_unknown_goes_on(api: Any) -> None:
    put(api, "a")
    put(api, "b")
    assert run(api, {"a": ConnectionError("the API server is away"), "b": "failed"})["unknown"] == [
        "a"
    ]
    assert set(api.stopped) == {"b"}


def test_a_job_that_does_not_stop_is_an_error_and_the_others_are_stopped(api: Any) -> None:
    put(api, "a")
    put(api, "b")
    api.fail_stops.add("a")
    with pytest.raises(InfrastructureError, match=r"^a: did not stop .*(no such actor|forbidden)"):
        run(api, {"a": "failed", "b": "failed"})
    assert api.was_stopped("b")


def test_the_store_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOIG_STORE", raising=False)
    with pytest.raises(InputError, match="BOIG_STORE"):
        store_root()
