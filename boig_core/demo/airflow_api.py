"""The few calls of Airflow's REST API that the demo makes: the same that the web page makes for a person's click.

Leaves out: everything else of that API.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from boig_core.errors import InfrastructureError


class AirflowApi:
    """What one user asks of Airflow.

    Args:
        base: such as ``http://127.0.0.1:8080``.
        user: who logs in.
        password: of the user.
    """

    def __init__(self, base: str, user: str, password: str) -> None:
        self.base = base
        self.user = user
        self._http = httpx.Client(base_url=base, timeout=60, trust_env=False)
        self._password = password

    def login(self) -> bool:
        """Get a token; False while the server is not ready."""
        try:
            answer = self._http.post("/auth/token", json={"username": self.user, "password": self._password})
        except httpx.HTTPError:
            return False
        if answer.status_code != 201:
            return False
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return True

    def has_dags(self, dags: list[str]) -> bool:
        """Whether every DAG has been parsed."""
        found = {dag["dag_id"] for dag in self._call("GET", "/dags?limit=100")["dags"]}
        return set(dags) <= found

    def import_errors(self) -> list[str]:
        """Why DAG files could not be parsed."""
        return [str(error["stack_trace"]) for error in self._call("GET", "/importErrors")["import_errors"]]

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool in which deferred tasks count."""
        body = {"name": name, "slots": slots, "include_deferred": True, "description": "Stages on the Ray cluster at once"}
        self._call("POST", "/pools", body)

    def trigger(self, dag: str, params: dict[str, Any]) -> str:
        """Start a run; returns its id."""
        return str(self._call("POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": params})["dag_run_id"])

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
        answer = self._call("GET", path, missing_ok=True)
        return None if answer is None else answer.get("value")

    def approve(self, dag: str, run: str, task: str) -> None:
        """Answer an approval with Approve, as a person does in the form."""
        answer = {"chosen_options": ["Approve"], "params_input": {"why": "the demo approves"}}
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/-1/hitlDetails"
        self._call("PATCH", path, answer)

    @retry(retry=retry_if_exception_type(httpx.TransportError), stop=stop_after_attempt(4), wait=wait_fixed(2), reraise=True)
    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        return self._http.request(method, f"/api/v2{path}", json=body)

    def _call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        try:
            answer = self._send(method, path, body)
            if answer.status_code == 401 and self.login():
                answer = self._send(method, path, body)
        except httpx.HTTPError as exc:
            raise InfrastructureError(self.base, f"Airflow does not answer ({exc})", "see .boig/logs/airflow.log") from exc
        if answer.status_code == 404 and missing_ok:
            return None
        if not answer.is_success:
            raise InfrastructureError(f"{method} {path}", f"Airflow answered {answer.status_code}: {answer.text[:500]}", "see its log")
        return answer.json()


def _lines(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [str(entry)]
    raised = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in entry.get("error_detail") or []]
    return [str(entry.get("event", "")), *raised]
