"""What counts as one cause, that exactly one of many who fail at once tells it, and deadlines that
are set wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from boig_core import environment
from boig_core.errors import (
    BoigError,
    ClusterError,
    InfrastructureError,
    InputError,
    StoreUnavailableError,
    named,
)
from boig_core.orchestration.jobs.backend import AwayError
from boig_core.orchestration.signals import alerts, deadlines
from boig_core.orchestration.signals.alerts import WINDOW_S, claim
from boig_core.orchestration.signals.callbacks import LONGEST, Cause


def told_once(error: object, dag: str = "d", run: str = "r") -> tuple[str, ...]:
    return Cause.of(error).told_once(dag, run)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            AwayError("http://ray:8265", "does not answer", "check it"),
            ClusterError("http://ray:8265/#/jobs/x", "no commit", "see it"),
        ),
        (
            AwayError("GET /api/jobs/a", "answered 503", "see http://ray:8265"),
            AwayError("http://ray:8265", "is away", "check it"),
        ),
        (
            StoreUnavailableError("s3://b/runs/a/x", "is away", "wait"),
            StoreUnavailableError("s3://b/models/y", "is away", "wait"),
        ),
    ],
)
def test_an_outage_is_one_cause_for_all_who_meet_it(one: BoigError, other: BoigError) -> None:
    assert told_once(one, "d", "r") == told_once(other, "e", "s")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            AwayError("http://ray:8265", "is away", "x"),
            AwayError("http://ray-2:8265", "is away", "x"),
        ),
        (
            AwayError("http://ray:8265", "is away", "x"),
            StoreUnavailableError("http://ray:8265", "is away", "x"),
        ),
        (InputError("posts", "is empty", "x"), InputError("posts", "is torn", "x")),
        (
            InfrastructureError("ddpo", "out of memory", "x"),
            InfrastructureError("finetune_sd", "out of memory", "x"),
        ),
        (ValueError("a"), KeyError("a")),
    ],
)
def test_what_differs_is_another_cause(one: Exception, other: Exception) -> None:
    assert told_once(one) != told_once(other)


def test_numbers_and_digests_tell_no_causes_apart_and_user_errors_are_told_for_each_run() -> None:
    item, other = (
        InputError(f"/s/3/attempt-{n}/{digest}", "is torn", "x")
        for n, digest in ((1, "ab12"), (2, "ff0"))
    )
    assert told_once(item) == told_once(other)
    assert told_once(item, run="r") != told_once(item, run="s")
    item, other = (InfrastructureError("ddpo", f"rank {rank} was lost", "x") for rank in (1, 12))
    assert told_once(item, run="r") == told_once(other, run="s")


def test_an_error_is_told_in_one_line_by_its_own_name() -> None:
    assert Cause.of(InputError("posts", "is\nempty", "give posts")) == Cause(
        "InputError", "posts: is empty", "give posts", "user"
    )
    assert Cause.of(ValueError("x" * 2000)).message == "x" * LONGEST + "…"
    assert Cause.of(None).message == "its process was killed, or lost Airflow"
    assert (named("InputError", True), named("OSError", False)) == (InputError, InfrastructureError)


def test_one_of_many_gets_a_cause_and_after_the_window_another(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path))
    claims_once()


def test_one_of_many_gets_a_cause_in_s3_too(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", s3_bucket)
    claims_once()


def claims_once() -> None:
    now = 10.9 * WINDOW_S

    def got(key: str, at: float) -> list[Callable[[], None]]:
        with ThreadPoolExecutor(8) as pool:
            return [
                result
                for result in pool.map(lambda _: claim(key, at), range(8))
                if result is not None
            ]

    [take_back] = got("a", now)
    assert got("a", now + 0.2 * WINDOW_S) == [], (
        "the next window of the clock has begun, the cause's own goes on"
    )
    assert len(got("b", now)) == 1
    take_back()
    assert len(got("a", now)) == 1
    assert len(got("a", now + 1.01 * WINDOW_S)) == 1


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_is_a_number_of_hours(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(environment.DEADLINE_H.name, text)
    with pytest.raises(
        InputError, match=f"BOIG_DEADLINE_H={text}: must be a number of hours above 0"
    ):
        deadlines.deadline()


def test_there_is_a_deadline_where_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.DEADLINE_H.name, raising=False)
    assert deadlines.deadline() is None
    monkeypatch.setenv(environment.DEADLINE_H.name, "1.5")
    result = deadlines.deadline()
    assert result is not None
    assert (result.interval, result.callback.path) == (
        timedelta(hours=1.5),
        "boig_core.orchestration.signals.deadlines.on_late_run",
    )


def test_a_late_run_is_told_by_the_path_that_version_0_1_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.triggers.callback import CallbackTrigger

    sent: list[alerts.Alert] = []
    monkeypatch.setattr(alerts, "tell", sent.append)
    run = {"dag_id": "boig_sd", "dag_run_id": "manual-1"}
    row = {"hours": 2.0, "context": {"dag_run": run}}

    async def events() -> list[Any]:
        path = "boig_core.orchestration.deadlines.on_late_run"
        return [event.payload async for event in CallbackTrigger(path, row).run()]

    payloads = asyncio.run(events())
    assert [payload["state"] for payload in payloads] == ["running", "success"], payloads
    titles = [alert.title for alert in sent]
    assert titles == ["boig_sd: manual-1 is late"]
