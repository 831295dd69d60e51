"""Runs of DAGs in this process, what became of them, and a person who answers an approval."""

from __future__ import annotations

import threading
import time
from typing import Any


def load(name: str) -> Any:
    """The DAG, parsed anew: a test run writes its conf into the params of the DAG object itself."""
    import importlib

    dag = importlib.reload(importlib.import_module(f"dags.{name}")).dag
    for task in dag.tasks:
        if hasattr(task, "poll_s"):
            task.poll_s = 0.05
    return dag


def xcoms(run: Any) -> dict[str, Any]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = session.query(XComModel).filter(
            XComModel.run_id == run.run_id,
            XComModel.dag_id == run.dag_id,
            XComModel.key == "return_value",
        )
        return {row.task_id: XComModel.deserialize_value(row) for row in rows}


def states(run: Any) -> dict[str, str]:
    assert {ti.try_number for ti in run.get_task_instances() if ti.state == "success"} <= {1}, (
        "a task got there by a retry only"
    )
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def events(name: str) -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        result = (
            session.query(AssetEvent)
            .join(AssetModel, AssetEvent.asset_id == AssetModel.id)
            .filter(AssetModel.name == name)
        )
        return [dict(event.extra) for event in result.order_by(AssetEvent.timestamp)]


def user(name: str, role: str) -> dict[str, str]:
    """Headers of a request as somebody who is logged in."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role))
    return {"Authorization": f"Bearer {token}"}


def create_event(asset: str, extra: dict[str, Any]) -> None:
    """Create an event through the REST API, as an admin may."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    with TestClient(create_app(apps="core")) as client:
        client.headers |= user("dag_test", "ADMIN")
        assets = client.get("/api/v2/assets?name_pattern=boig").json()["assets"]
        [number] = [entry["id"] for entry in assets if entry["name"] == asset]
        created = client.post("/api/v2/assets/events", json={"asset_id": number, "extra": extra})
        assert created.status_code == 200, created.text


class Answer:
    """Answers the approval from a second thread through the REST API, as a click in the UI does:
    first as who triggered the run, an admin, whom Airflow must refuse, then as the approver.

    Attributes:
        refused: status of the first answer.
        body: what the form shows.
    """

    def __init__(self, option: str) -> None:
        self.option = option
        self.body = ""
        self.refused = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Answer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join(60)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            from airflow.api_fastapi.app import create_app
            from fastapi.testclient import TestClient

            with TestClient(create_app(apps="core")) as client:
                client.headers |= user("dag_test", "ADMIN")
                for _ in range(600):
                    if self._answer(client):
                        return
                    time.sleep(0.2)
                raise AssertionError("nobody asked")
        except Exception as exc:
            self.error = exc

    def _answer(self, client: Any) -> bool:
        """Whether the question has its answer; a 500 says that SQLite was locked, and all is asked
        again."""
        base = "/api/v2/dags/boig_promote/dagRuns"
        waiting = client.get(f"{base}/~/taskInstances?state=awaiting_input")
        if waiting.status_code == 500 or not (tasks := waiting.json()["task_instances"]):
            return False
        path = f"{base}/{tasks[0]['dag_run_id']}/taskInstances/approval/-1/hitlDetails"
        question = client.get(path)
        if question.status_code == 500:
            return False
        self.body = question.json()["body"]
        answer = {"chosen_options": [self.option], "params_input": {"why": "it sells"}}
        while self.refused in (0, 500):
            self.refused = client.patch(path, json=answer).status_code
        assert self.refused == 403
        done = client.patch(path, json=answer, headers=user("approver", "USER"))
        assert done.status_code in (200, 409, 500), done.text
        return bool(done.status_code != 500)
