"""The wait for a job: one poller a cluster, the log once, an end that is known whatever happened,
and a kill that is checked."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import TriggerEvent

from boig_core.errors import StoreUnavailableError
from boig_core.orchestration import airflow_state
from boig_core.orchestration.jobs import poller, task_log
from boig_core.orchestration.jobs import trigger as triggers
from boig_core.orchestration.jobs.backend import AwayError, JobInfo
from boig_core.orchestration.jobs.poller import watched
from boig_core.orchestration.jobs.ray_api import RayCluster
from boig_core.orchestration.jobs.task_log import CURSOR, TaskLog
from boig_core.orchestration.jobs.trigger import GONE, UNREACHABLE, RayJobTrigger, follow
from boig_core.storage import store


@pytest.fixture(autouse=True)
def no_poller_is_left() -> Iterator[None]:
    yield
    assert poller._pollers == {}


def wait_for(cluster: Any, *names: str, patience_s: float = 60.0) -> list[Any]:
    async def one(name: str) -> Any:
        async with watched(cluster, name, poll_s=0.01, patience_s=patience_s) as end:
            return await end

    async def all_of() -> list[Any]:
        return await asyncio.gather(*map(one, names), return_exceptions=True)

    return asyncio.run(all_of())


def test_one_poller_tells_each_watcher_its_jobs_end(api: Any) -> None:
    names = [f"boig-{n}" for n in range(30)]
    api.states = {name: ["PENDING", "RUNNING", "SUCCEEDED"] for name in names}
    api.states["boig-7"] = ["FAILED"]
    ends = wait_for(api.cluster, *names, "boig-gone", "boig-3")
    assert [end and end.status for end in ends] == [
        "FAILED" if n == 7 else "SUCCEEDED" for n in range(30)
    ] + [None, "SUCCEEDED"]
    lists = api.asked.count("/api/jobs/")
    assert lists == 3  # one for each state, however many watch
    assert len(api.asked) == lists


def test_what_a_process_has_loaded_is_spared_from_the_collector_once(api: Any) -> None:
    gc.unfreeze()
    poller._freeze.cache_clear()
    api.states["boig-x"] = ["SUCCEEDED"]
    try:
        wait_for(api.cluster, "boig-x")
        frozen = gc.get_freeze_count()
        assert frozen > 1000
        later = [[number] for number in range(1000)]
        wait_for(api.cluster, "boig-x")
        assert gc.get_freeze_count() <= frozen  # what comes later is collected as ever
        assert len(later) == 1000
    finally:
        gc.unfreeze()


def test_a_watcher_that_leaves_ends_nobody_elses_wait(api: Any) -> None:
    api.states["boig-x"] = ["RUNNING"]

    async def run() -> Any:
        async with watched(api.cluster, "boig-x", poll_s=0.01, patience_s=60.0) as stays:
            async with watched(api.cluster, "boig-x", poll_s=0.01, patience_s=60.0):
                pass
            api.states["boig-x"] = ["SUCCEEDED"]
            return await stays

    assert asyncio.run(run()).status == "SUCCEEDED"


def test_a_cluster_that_comes_back_in_time_is_ridden_out_and_one_that_does_not_is_an_error(
    api: Any,
) -> None:
    api.states["boig-x"] = ["SUCCEEDED"]
    api.down = True

    async def run() -> Any:
        async with watched(api.cluster, "boig-x", poll_s=0.01, patience_s=60.0) as end:
            while len(api.asked) < 3:
                await asyncio.sleep(0.01)
            assert not end.done()
            api.down = False
            return await end

    assert asyncio.run(run()).status == "SUCCEEDED"
    api.down = True
    assert [type(end) for end in wait_for(api.cluster, "boig-x", "boig-y", patience_s=0.05)] == [
        AwayError
    ] * 2


def test_what_breaks_the_poller_reaches_all_who_wait() -> None:
    @dataclass(frozen=True)
    class Broken:
        def connect(self) -> Any:
            return self.session()

        @asynccontextmanager
        async def session(self) -> AsyncIterator[Any]:
            yield self

        async def states(self, ids: list[str]) -> dict[str, JobInfo]:
            raise KeyError("a field that Ray no longer sends")

    ends = wait_for(Broken(), "boig-x", "boig-y")
    assert [type(end) for end in ends] == [KeyError, KeyError]


def keep(attempt: str, *chunks: str) -> None:
    there = len(store.list_files(f"{attempt}/log"))
    for number, text in enumerate(chunks, there + 1):
        store.write_bytes(f"{attempt}/log/{number:06}.txt", text.encode())


def test_each_chunk_is_shown_once_and_a_successor_repeats_at_most_one_and_says_so(
    tmp_path: Any,
) -> None:
    attempt, lines = str(tmp_path), []
    first = TaskLog(attempt, lines.append)
    keep(attempt, "a\nb\n", "c\n")
    first.show()
    first.show()
    keep(attempt, "d\n")
    first.show()
    assert lines == ["a", "b", "c", "d"]
    keep(attempt, "e\n", "f\n")

    def crash(line: str) -> None:
        lines.append(line)
        if line == "e":
            raise SystemExit

    with pytest.raises(SystemExit):
        TaskLog(attempt, crash).show()
    TaskLog(attempt, lines.append).show()
    marks = [line for line in lines if line.startswith("[")]
    assert [line for line in lines[4:] if line not in marks] == ["e", "e", "f"]
    assert all("000004.txt, may have been shown before" in line for line in marks)
    assert lines.index("e") > lines.index(marks[0])


def test_a_crash_amid_the_very_first_chunk_is_marked_too(tmp_path: Any) -> None:
    keep(str(tmp_path), "a\n")
    with pytest.raises(ZeroDivisionError):
        TaskLog(str(tmp_path), lambda _: 1 / 0).show()
    lines: list[str] = []
    TaskLog(str(tmp_path), lines.append).show()
    assert lines == [
        "[the log goes on from its beginning; the next chunk, 000001.txt, may have been shown before]",
        "a",
    ]


def test_a_store_that_is_away_for_a_moment_costs_no_line_and_no_wait(
    api: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.states["boig-x"] = ["RUNNING", "SUCCEEDED"]
    keep(str(tmp_path), "a\n")
    real, lines = task_log.runs.read_log, []

    def away_once(*arguments: Any) -> Any:
        monkeypatch.setattr(task_log.runs, "read_log", real)
        raise StoreUnavailableError("s3://b", "does not answer", "wait")

    monkeypatch.setattr(task_log.runs, "read_log", away_once)
    end = asyncio.run(follow(api.cluster, "boig-x", str(tmp_path), lines.append, poll_s=0.01))
    assert end["status"] == "SUCCEEDED"
    assert lines == ["[the log waits: s3://b: does not answer; wait]", "a"]


def test_a_jobs_end_does_not_wait_for_a_store_that_hangs(
    api: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.states["boig-x"] = ["SUCCEEDED"]
    free = threading.Event()
    monkeypatch.setattr(task_log, "LAST_S", 0.05)
    monkeypatch.setattr(task_log.runs, "read_log", lambda *_: free.wait(60) and iter(()))
    lines: list[str] = []
    try:
        assert (
            asyncio.run(follow(api.cluster, "boig-x", str(tmp_path), lines.append, poll_s=0.01))[
                "status"
            ]
            == "SUCCEEDED"
        )
        assert not free.is_set()
    finally:
        free.set()
    assert "the rest of the log is in" in lines[-1]


def test_gone_and_unreachable_are_ends_too(api: Any, tmp_path: Any) -> None:
    assert (
        asyncio.run(follow(api.cluster, "boig-x", str(tmp_path), print, poll_s=0.01))["status"]
        == GONE
    )
    end = asyncio.run(
        follow(
            RayCluster("http://127.0.0.1:9"),
            "boig-x",
            str(tmp_path),
            print,
            poll_s=0.01,
            patience_s=0.05,
        )
    )
    assert end["status"] == UNREACHABLE
    assert "does not answer" in end["message"]


def trigger(api: Any, attempt: str = "/nowhere", name: str = "boig-x") -> RayJobTrigger:
    path, arguments = RayJobTrigger(api.cluster.serialize(), name, 0.01, attempt).serialize()
    assert path == "boig_core.orchestration.jobs.trigger.RayJobTrigger"
    created = RayJobTrigger(**arguments)
    created.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
    return created


def test_the_event_says_all_that_the_operator_needs(api: Any, tmp_path: Any) -> None:
    api.states["boig-x"] = ["SUCCEEDED"]

    async def fire() -> TriggerEvent:
        return await anext(trigger(api, str(tmp_path)).run())

    expected = {
        "status": "SUCCEEDED",
        "message": "hm",
        "attempt": str(tmp_path),
        "submission_id": "boig-x",
    }
    assert asyncio.run(fire()).payload == {**expected, "job_url": f"{api.address}/#/jobs/boig-x"}
    assert store.exists(f"{tmp_path}/{CURSOR}")


def test_the_end_of_a_short_job_is_told_once_airflow_has_seen_its_task_wait(
    api: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queued again before, the task counts as failed."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "5")
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def follow(*_: Any, **__: Any) -> dict[str, str]:
        return {"status": "SUCCEEDED", "message": ""}

    monkeypatch.setattr(triggers, "follow", follow)
    monkeypatch.setattr(triggers.asyncio, "sleep", sleep)
    trigger = RayJobTrigger(api.cluster.serialize(), "boig-x", 0.01, str(tmp_path))
    assert asyncio.run(anext(trigger.run())) is not None
    assert slept == [pytest.approx(10.0, abs=0.5)]


def test_the_way_to_airflow_is_built_before_a_kill_needs_it_once_a_process(
    api: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(airflow_state, "_warm", threading.Event())
    monkeypatch.setattr(
        airflow_state, "state_of", lambda task: asked.append(str(task)) or "deferred"
    )
    api.states["boig-x"] = ["SUCCEEDED"]

    async def fire() -> None:
        for _ in range(2):
            await anext(trigger(api, str(tmp_path)).run())

    asyncio.run(fire())
    for thread in threading.enumerate():
        if thread.name == "boig-state":
            thread.join()
    assert asked == ["d/r/t"]


def test_a_trigger_that_ends_stops_nothing(either: Any, tmp_path: Any) -> None:
    either.states["boig-x"] = ["RUNNING"]

    async def run() -> None:
        ours = trigger(either, str(tmp_path))
        waiting = asyncio.ensure_future(anext(ours.run()))
        while not either.asked:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        await ours.cleanup()

    asyncio.run(run())
    assert either.stopped == []


@pytest.mark.parametrize(
    ("answer", "stops"),
    [
        ({"r": {"t": "failed"}}, True),
        ({"r": {"t": "success"}}, True),
        ({"r": {"t": None}}, True),
        ({"r": {"t": "removed"}}, True),
        ({"r": {"t": "restarting"}}, True),
        ({}, True),
        ({"r": {"t": "deferred"}}, False),
        ({"r": {"t": "running"}}, False),
        ({"r": {"t": "queued"}}, False),
        ({"r": {"t": "up_for_retry"}}, False),
        ({"r": {"t": "a state of a later version"}}, False),
        (ConnectionError("no supervisor"), False),
    ],
)
def test_a_kill_stops_the_job_only_on_airflows_word(
    api: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, stops: bool
) -> None:
    api.states["boig-x"] = ["RUNNING"]
    asked: list[dict[str, Any]] = []

    def states(**arguments: Any) -> Any:
        asked.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(states))
    asyncio.run(trigger(api).on_kill())
    assert asked == [{"dag_id": "d", "run_ids": ["r"], "task_ids": ["t"], "map_index": -1}]
    assert api.states["boig-x"] == (["STOPPED"] if stops else ["RUNNING"])


def test_a_kill_that_airflow_cancels_goes_on(either: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    either.states["boig-x"] = ["RUNNING"]
    asked, answer = threading.Event(), threading.Event()

    def states(**_: Any) -> Any:
        asked.set()
        answer.wait(60)
        return {"r": {"t": "failed"}}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(states))

    async def run() -> None:
        kill = asyncio.create_task(trigger(either).on_kill())
        await asyncio.to_thread(asked.wait, 60)
        kill.cancel()
        await asyncio.wait({kill})
        assert kill.cancelled()
        answer.set()
        await asyncio.wait(set(triggers._kills))

    asyncio.run(run())
    assert either.was_stopped("boig-x")


def test_a_kill_whose_job_goes_on_says_so(
    either: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    either.states["boig-x"], either.stubborn = ["RUNNING"], {"boig-x"}
    monkeypatch.setattr(
        RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: {"r": {"t": "failed"}})
    )
    monkeypatch.setattr(triggers, "KILL_S", (5.0, 0.01))
    asyncio.run(trigger(either).on_kill())
    assert (
        "job boig-x could not be stopped, boig_reconcile tries again: boig-x: still RUNNING"
        in capsys.readouterr().out
    )
