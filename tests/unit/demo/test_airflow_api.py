"""A busy Airflow: a call is made again, no call starts two runs, and patience ends with an error
that says what to do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from tenacity import wait_none

from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.patience import Patience
from boig_core.errors import InfrastructureError

LOCKED = {
    "detail": {
        "reason": "Database error",
        "statement": "hidden",
        "orig_error": "hidden",
        "message": "Serious error when handling your request. Check logs for more details - "
        "you will find it in api server when you look for ID QoMoiqCa",
    }
}
"""What Airflow 3.3 answers, with 500, when SQLite's lock was not free in time."""
APPROVAL = "/dags/boig_promote/dagRuns/r/taskInstances/approval/-1/hitlDetails"


@dataclass
class StubAirflow:
    """Answers as Airflow 3.3 does, after the failures that a test has put in its way.

    Attributes:
        failures: what becomes of the next requests: a status that is answered in their place, or
            "acts" for one that is carried out, with a connection that breaks before the answer.
    """

    failures: list[int | str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    runs: dict[str, Any] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)
    answered_by: list[str] = field(default_factory=list)
    address: str = ""

    def act(self, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
        """Status and body."""
        name = path.rsplit("/", 1)[-1]
        if path == "/auth/token":
            return (
                (201, {"access_token": body["username"]})
                if body["password"] == "right"
                else (401, {})
            )
        match method, path.removeprefix("/api/v2"):
            case "POST", "/dags/boig_ingest/dagRuns":
                return _create(self.runs, body["dag_run_id"], body)
            case "GET", "/dags/boig_ingest/dagRuns":
                return 200, {"dag_runs": list(self.runs.values())}
            case "POST", "/pools":
                return _create(self.pools, body["name"], body)
            case "GET", found if found.startswith(("/pools/", "/dags/boig_ingest/dagRuns/")):
                there = {**self.pools, **self.runs}.get(name)
                return (404, {"detail": "was not found"}) if there is None else (200, there)
            case "PATCH", found if found == APPROVAL:
                if self.answered_by:
                    return 409, {
                        "detail": "has already been updated and is not allowed to write again."
                    }
                self.answered_by.append(token)
                return 200, {"chosen_options": body["chosen_options"]}
            case "GET", found if found == APPROVAL:
                return 200, {"response_received": bool(self.answered_by)}
        return 404, {"detail": f"{method} {path}"}


def _create(table: dict[str, Any], name: str, body: Any) -> tuple[int, Any]:
    if name in table:
        return 409, {"detail": {"reason": "Unique constraint violation"}}
    table[name] = body
    return 200, body


@pytest.fixture(scope="module")
def server() -> Iterator[StubAirflow]:
    stub = StubAirflow()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(self.path.split("?")[0])
            stub.requests.append(f"{self.command} {path.removeprefix('/api/v2')}")
            failure = stub.failures.pop(0) if stub.failures else None
            if isinstance(failure, int):
                self.reply(failure, LOCKED)
                return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, body = stub.act(self.command, path, json.loads(raw or b"null"), token)
            if failure == "acts":
                self.close_connection = True
                self.connection.close()
                return
            self.reply(status, body)

        def reply(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        do_GET = do_POST = do_PATCH = answer

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    stub.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield stub
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def airflow(server: StubAirflow) -> StubAirflow:
    """A server on which nothing has happened yet."""
    for kept in (server.failures, server.requests, server.runs, server.pools, server.answered_by):
        kept.clear()
    return server


@pytest.fixture(scope="module")
def api(server: StubAirflow) -> AirflowApi:
    """The user who starts runs, with patience for a moment."""
    return AirflowApi(server.address, "trainer", "right", Patience(20.0, wait_none()))


@pytest.fixture(scope="module")
def approver(server: StubAirflow) -> AirflowApi:
    """Another user, logged in."""
    session = AirflowApi(server.address, "approver", "right", Patience(20.0, wait_none()))
    assert session.login()
    return session


FAILURES = [[500], [500, 500, 500], ["acts"], [502, "acts", 503], ["acts", "acts", 429, 504]]


@pytest.mark.parametrize("failures", FAILURES)
def test_a_trigger_on_a_busy_server_starts_one_run(
    airflow: StubAirflow, api: AirflowApi, failures: list[int | str]
) -> None:
    airflow.failures = list(failures)
    run = api.trigger("boig_ingest", {"posts": "p"})
    assert list(airflow.runs) == [run]
    assert airflow.runs[run] == {"dag_run_id": run, "logical_date": None, "conf": {"posts": "p"}}
    assert run.startswith("manual__")
    posts = ["POST /dags/boig_ingest/dagRuns"] * (len(failures) + 1)
    asked_for = [f"GET /dags/boig_ingest/dagRuns/{run}"] if "acts" in failures else []
    assert airflow.requests == posts + asked_for, "a conflict is believed when the run is there"


def test_two_triggers_are_two_runs(airflow: StubAirflow, api: AirflowApi) -> None:
    assert api.trigger("boig_ingest", {}) != api.trigger("boig_ingest", {})
    assert len(airflow.runs) == len(airflow.requests) == 2


def test_a_conflict_without_the_run_is_an_error(airflow: StubAirflow, api: AirflowApi) -> None:
    airflow.failures = [409]
    with pytest.raises(
        InfrastructureError, match=r"GET /dags/boig_ingest/dagRuns/manual__.*answered 404"
    ):
        api.trigger("boig_ingest", {})


@pytest.mark.parametrize("failures", FAILURES)
def test_a_pool_is_created_once(
    airflow: StubAirflow, api: AirflowApi, failures: list[int | str]
) -> None:
    airflow.failures = list(failures)
    api.create_pool("boig_cluster", 1)
    api.create_pool("boig_cluster", 1)
    assert [pool["slots"] for pool in airflow.pools.values()] == [1]
    with pytest.raises(
        InfrastructureError, match="pool boig_cluster: exists with 1 slots, not with 2"
    ):
        api.create_pool("boig_cluster", 2)


@pytest.mark.parametrize("failures", FAILURES)
def test_an_approval_is_answered_once_and_by_its_user(
    airflow: StubAirflow, approver: AirflowApi, failures: list[int | str]
) -> None:
    airflow.failures = list(failures)
    approver.approve("boig_promote", "r", "approval")
    approver.approve("boig_promote", "r", "approval")
    assert airflow.answered_by == ["approver"]


def test_a_conflict_without_an_answer_is_an_error(airflow: StubAirflow, api: AirflowApi) -> None:
    airflow.failures = [409]
    with pytest.raises(InfrastructureError, match="nobody has answered"):
        api.approve("boig_promote", "r", "approval")


@pytest.mark.parametrize("failures", FAILURES)
def test_a_look_is_repeated(
    airflow: StubAirflow, api: AirflowApi, failures: list[int | str]
) -> None:
    airflow.failures = list(failures)
    assert api.newest_run("boig_ingest") is None
    assert len(airflow.requests) == len(failures) + 1


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.trigger("boig_ingest", {}),
        lambda api: api.create_pool("boig_cluster", 1),
        lambda api: api.approve("boig_promote", "r", "approval"),
        lambda api: api.newest_run("boig_ingest"),
    ],
)
def test_a_wrong_request_is_made_once(
    airflow: StubAirflow, api: AirflowApi, status: int, call: Callable[[AirflowApi], Any]
) -> None:
    airflow.failures = [status]
    with pytest.raises(InfrastructureError, match=f"Airflow answered {status}: ") as failed:
        call(api)
    assert len(airflow.requests) == 1
    assert failed.value.remedy == "see its log"


def test_patience_ends_with_the_call_the_status_and_what_to_do(airflow: StubAirflow) -> None:
    airflow.failures = [500] * 100_000
    began = time.monotonic()
    impatient = AirflowApi(airflow.address, "trainer", "right", Patience(0.1, wait_none()))
    with pytest.raises(InfrastructureError) as failed:
        impatient.trigger("boig_ingest", {})
    assert time.monotonic() - began < 10
    assert failed.value.value == "POST /dags/boig_ingest/dagRuns"
    assert "Airflow answered 500 for 0 s" in failed.value.rule
    assert "Database error" in failed.value.rule
    assert "logs/airflow.log" in failed.value.remedy
    assert len(airflow.requests) > 1
    assert airflow.runs == {}


def test_a_server_that_is_gone_is_named(airflow: StubAirflow) -> None:
    api = AirflowApi("http://127.0.0.1:9", "trainer", "right", Patience(0.1, wait_none()))
    with pytest.raises(
        InfrastructureError, match=r"GET /dags.*http://127\.0\.0\.1:9 does not answer"
    ):
        api.has_dags(["boig_ingest"])
    assert not api.login()


def test_a_post_that_may_not_be_made_twice_is_not(airflow: StubAirflow, api: AirflowApi) -> None:
    clear = "/dags/boig_ingest/clearTaskInstances"
    for failure, rule in ((500, "Airflow answered 500: "), ("acts", "does not answer")):
        airflow.failures = [failure]
        with pytest.raises(InfrastructureError, match=rule):
            api._call("POST", clear, {})
    assert airflow.requests == [f"POST {clear}"] * 2


def test_a_post_that_may_not_be_made_twice_waits_for_the_server(
    airflow: StubAirflow, api: AirflowApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [httpx.ConnectError("refused"), httpx.ConnectTimeout("late")]
    request = httpx.Client.request

    def first_away(*args: Any, **kwargs: Any) -> httpx.Response:
        if away:
            raise away.pop(0)
        return request(*args, **kwargs)

    monkeypatch.setattr(httpx.Client, "request", first_away)
    with pytest.raises(InfrastructureError, match="answered 404"):
        api._call("POST", "/dags/boig_ingest/clearTaskInstances", {})
    assert len(airflow.requests) == 1


def test_a_token_that_has_run_out_is_renewed(airflow: StubAirflow, api: AirflowApi) -> None:
    airflow.failures = [401]
    assert api.newest_run("boig_ingest") is None
    look = "GET /dags/boig_ingest/dagRuns"
    assert airflow.requests == [look, "POST /auth/token", look]


def test_pauses_grow_and_stay_bounded() -> None:
    from tenacity import RetryCallState

    class Count:
        def __init__(self, attempt_number: int) -> None:
            self.attempt_number = attempt_number

    states: list[RetryCallState] = [Count(n) for n in range(1, 9)]  # type: ignore[misc]
    pauses = [Patience().pause(state) for state in states]
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert Patience().seconds == 90
