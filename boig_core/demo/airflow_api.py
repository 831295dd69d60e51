"""The few calls of Airflow's REST API that the demo makes, each as one user: the same that the web
page makes for a person's click.

A call that may be made twice is made again while the server is busy or away: on SQLite Airflow
answers 500 when its database was locked for too long. Leaves out: everything else of that API.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx

from boig_core.demo.patience import ANSWER_S, BUSY, Patience
from boig_core.errors import InfrastructureError

REMEDY: Final = (
    "see logs/airflow.log in the demo's folder; on a busy machine end other work, then start again"
)


class AirflowApi:
    """What one user asks of Airflow.

    Args:
        base: such as ``http://127.0.0.1:8080``.
        user: who logs in.
        password: of the user.
        patience: with a server that is busy or away.
    """

    def __init__(
        self, base: str, user: str, password: str, patience: Patience | None = None
    ) -> None:
        self.base = base
        self.user = user
        self._http = httpx.Client(base_url=base, timeout=ANSWER_S, trust_env=False)
        self._password = password
        self._patience = patience or Patience()

    def login(self) -> bool:
        """Get a token; False while the server is not ready."""
        try:
            body = {"username": self.user, "password": self._password}
            answer = self._http.post("/auth/token", json=body)
        except httpx.HTTPError:
            return False
        if answer.status_code != 201:
            return False
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return True

    def has_dags(self, dags: list[str]) -> bool:
        """Whether every DAG has been parsed."""
        known = {dag["dag_id"] for dag in self._call("GET", "/dags?limit=100")["dags"]}
        return set(dags) <= known

    def import_errors(self) -> list[str]:
        """Why DAG files could not be parsed."""
        return [
            str(error["stack_trace"])
            for error in self._call("GET", "/importErrors")["import_errors"]
        ]

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool in which deferred tasks count; one that is there already must be the same.

        Raises:
            InfrastructureError: another pool has the name, or Airflow does not answer.
        """
        wanted = {"name": name, "slots": slots, "include_deferred": True}
        body = {**wanted, "description": "Stages on the Ray cluster at once"}
        if self._call("POST", "/pools", body, repeatable=True, none_at=409) is None:
            there = self._call("GET", f"/pools/{quote(name)}")
            if any(there[key] != value for key, value in wanted.items()):
                rule = f"exists with {there['slots']} slots, not with {slots} in which deferred tasks count"
                raise InfrastructureError(
                    f"pool {name}", rule, "delete it in Airflow, then start again"
                )

    def trigger(self, dag: str, params: dict[str, Any]) -> str:
        """Start one run; returns its id, which is chosen here: asked again, Airflow answers 409 and
        starts no second run."""
        run = f"manual__{datetime.now(UTC).isoformat()}_{uuid4().hex[:8]}"
        body = {"dag_run_id": run, "logical_date": None, "conf": params}
        if self._call("POST", f"/dags/{dag}/dagRuns", body, repeatable=True, none_at=409) is None:
            # 409 may be about something else: only a run that is there has been started.
            self._call("GET", f"/dags/{dag}/dagRuns/{quote(run)}")
        return run

    def newest_run(self, dag: str) -> dict[str, Any] | None:
        """The newest run of a DAG, if any."""
        runs = self._call("GET", f"/dags/{dag}/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return runs[0] if runs else None

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Task instances of a run by task id."""
        answer = self._call("GET", f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances?limit=100")
        return {task["task_id"]: task for task in answer["task_instances"]}

    def log(self, dag: str, run: str, task: str, attempt: int) -> list[str]:
        """Lines of a task's log; an exception is one line, ``Type: message``."""
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/logs/{max(1, attempt)}?full_content=true"
        content = self._call("GET", path).get("content") or []
        return [line for entry in content for line in _lines(entry)]

    def xcom(self, dag: str, run: str, task: str) -> Any:
        """What a task returned; None when it returned nothing."""
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        answer = self._call("GET", path, none_at=404)
        return None if answer is None else answer.get("value")

    def approve(self, dag: str, run: str, task: str) -> None:
        """Answer an approval with Approve, as a person does in the form; an answer that it has
        already stands.

        Raises:
            InfrastructureError: Airflow has kept no answer, or does not answer itself.
        """
        answer = {"chosen_options": ["Approve"], "params_input": {"why": "the demo approves"}}
        # -1 is the map index of a task that is not mapped.
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/-1/hitlDetails"
        if self._call("PATCH", path, answer, none_at=409) is None:
            question = self._call("GET", path)
            if not question["response_received"]:
                raise InfrastructureError(
                    f"PATCH {path}", "was refused, yet nobody has answered", REMEDY
                )

    def _send(
        self, method: str, path: str, body: Any = None, *, repeatable: bool = False
    ) -> httpx.Response:
        """The last answer; all but a POST are repeatable, and a POST is if the caller says so."""
        twice = repeatable or method != "POST"
        return self._patience.send(self._http, method, f"/api/v2{path}", body, repeatable=twice)

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        repeatable: bool = False,
        none_at: int | None = None,
    ) -> Any:
        """What Airflow answers; None at the status that the caller expects beside success."""
        try:
            answer = self._send(method, path, body, repeatable=repeatable)
            # A token may run out while a demo runs; one login brings another.
            if answer.status_code == 401 and self.login():
                answer = self._send(method, path, body, repeatable=repeatable)
        except httpx.HTTPError as exc:
            reason = str(exc) or type(exc).__name__
            rule = f"Airflow at {self.base} does not answer ({reason})"
            raise InfrastructureError(f"{method} {path}", rule, REMEDY) from exc
        if answer.status_code == none_at:
            return None
        if not answer.is_success:
            busy = answer.status_code in BUSY
            asked = (
                f" for {self._patience.seconds:.0f} s"
                if busy and (repeatable or method != "POST")
                else ""
            )
            rule = f"Airflow answered {answer.status_code}{asked}: {answer.text[:500]}"
            raise InfrastructureError(f"{method} {path}", rule, REMEDY if busy else "see its log")
        return answer.json()


def _lines(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [str(entry)]
    raised = [
        f"{error.get('exc_type')}: {error.get('exc_value')}"
        for error in entry.get("error_detail") or []
    ]
    return [str(entry.get("event", "")), *raised]
