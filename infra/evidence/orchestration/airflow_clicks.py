"""Airflow's REST API, with the clicks of a person who interferes.

Leaves out: the servers (see `airflow_on_postgres`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from boig_core.demo.airflow_api import AirflowApi
from boig_core.orchestration.stage.attempts import run_folder


@dataclass(frozen=True)
class Run:
    """One run of one of the test DAGs."""

    dag: str
    id: str

    @property
    def folder(self) -> str:
        """Its name in the store."""
        return run_folder(self.id)

    @property
    def path(self) -> str:
        """Its address in Airflow's REST API."""
        return f"/dags/{self.dag}/dagRuns/{quote(self.id)}"


class Airflow(AirflowApi):
    """Airflow's REST API, with the clicks of a person who interferes."""

    def start(self, dag: str) -> Run:
        """Start a run of a DAG."""
        return Run(dag, self.trigger(dag, {}))

    def task(self, run: Run, task: str = "stage") -> dict[str, Any]:
        """A task instance of a run."""
        return self.tasks(run.dag, run.id)[task]

    def all_tasks(self, run: Run) -> dict[str, dict[str, Any]]:
        """Task instances of a run by task id, however many there are."""
        result: dict[str, dict[str, Any]] = {}
        while page := self._call(
            "GET", f"{run.path}/taskInstances?limit=100&offset={len(result)}&order_by=id"
        )["task_instances"]:
            result |= {task["task_id"]: task for task in page}
        return result

    def state(self, run: Run, task: str = "stage") -> str | None:
        """State of a task instance; None: not scheduled yet."""
        return self.task(run, task)["state"]  # type: ignore[no-any-return]

    def run_state(self, run: Run) -> str:
        """State of a run."""
        return self._call("GET", run.path)["state"]  # type: ignore[no-any-return]

    def result(self, run: Run) -> Any:
        """What the task ``stage`` returned."""
        return self.xcom(run.dag, run.id, "stage")

    def unpause(self, dag: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", f"/dags/{dag}", {"is_paused": False})

    def add_connection(self, **what: Any) -> None:
        """Make a connection."""
        self._call("POST", "/connections", what)

    def mark(self, run: Run, state: str) -> None:
        """Set the state of the task ``stage``, as a person does."""
        self._call("PATCH", f"{run.path}/taskInstances/stage", {"new_state": state})

    def clear(self, run: Run) -> None:
        """Clear the task ``stage``."""
        body = {"dry_run": False, "dag_run_id": run.id, "task_ids": ["stage"], "only_failed": False}
        self._call("POST", f"/dags/{run.dag}/clearTaskInstances", body)

    def run(self, run: Run) -> dict[str, Any]:
        """A run as Airflow tells it."""
        return self._call("GET", run.path)  # type: ignore[no-any-return]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The newest runs of a DAG, the earliest interval first."""
        return self._call("GET", f"/dags/{dag}/dagRuns?order_by=logical_date&limit=100")["dag_runs"]  # type: ignore[no-any-return]

    def clear_run(self, run: Run) -> None:
        """Clear all tasks of a run."""
        self._call("POST", f"{run.path}/clear", {"dry_run": False, "only_failed": False})

    def entries(self, dag: str, run: str, task: str, attempt: int) -> list[dict[str, Any]]:
        """What a task logged, each entry with its fields."""
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/logs/{attempt}?full_content=true"
        return [entry for entry in self._call("GET", path)["content"] if isinstance(entry, dict)]

    def events(self, asset: str) -> list[dict[str, Any]]:
        """An asset's events, the oldest first."""
        path = f"/assets/events?asset_id={self._asset(asset)}&order_by=timestamp"
        return self._call("GET", path)["asset_events"]  # type: ignore[no-any-return]

    def asset_state(self, asset: str) -> dict[str, Any]:
        """What is kept in an asset's state store."""
        result = self._call("GET", f"/assets/{self._asset(asset)}/state-store")["asset_state_store"]
        return {entry["key"]: entry["value"] for entry in result}

    def forget(self, asset: str, key: str) -> None:
        """Remove an entry of an asset's state store."""
        self._send(
            "DELETE", f"/assets/{self._asset(asset)}/state-store/{key}", None
        ).raise_for_status()

    def _asset(self, name: str) -> int:
        result = self._call("GET", f"/assets?name_pattern={quote(name)}")["assets"]
        return next(int(asset["id"]) for asset in result if asset["name"] == name)

    def delete(self, run: Run) -> None:
        """As in the web page: a run must have ended before it can be deleted."""
        self._call("PATCH", run.path, {"state": "failed"})
        self._send("DELETE", run.path, None).raise_for_status()

    def unhealthy(self) -> list[str]:
        """Servers without a fresh heartbeat."""
        health = self._send("GET", "/monitor/health").json()
        return [
            name
            for name in ("scheduler", "triggerer", "dag_processor")
            if health[name]["status"] != "healthy"
        ]
