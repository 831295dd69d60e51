"""The store's pages in Airflow: for who is logged in and may read the DAG; committed pages and
pictures only, under a strict policy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from boig_core.demo.processes import Services
from boig_core.demo.services import answers
from boig_core.storage import commit, manifest
from tests.ports import PORTS

pytestmark = pytest.mark.usefixtures("airflow_db")

PNG = b"\x89PNG\r\n\x1a\nnot much of a picture"
FILES = {
    "reports/v1": ("report", {"report.html": b"<!doctype html>a report", "report.json": b"{}"}),
    "evaluations/generation/v1": ("generation", {"grids/000.png": PNG, "images.parquet": b"PAR1"}),
    "evaluations/comparison/v1": ("comparison", {"report.html": b"<!doctype html>a comparison"}),
    "datasets/acme/v1": ("dataset", {"card.html": b"<!doctype html>a card"}),
    "models/boigsd/v1": ("sd", {"card.html": b"<!doctype html>a model"}),
}


def publish(root: Path, place: str) -> None:
    kind, files = FILES[place]
    folder, attempt = root / "local" / place, f"{root}/store/runs/d/r/{kind}/attempt-1"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    manifest.publish_folder(
        folder,
        f"{root}/store/{place}",
        kind=kind,
        lineage=lineage,
        commit=f"{attempt}/{commit.COMMIT}",
    )
    commit.commit(attempt, {kind: f"{root}/store/{place}"}, {})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOIG_STORE", f"{tmp_path}/store")
    for place in FILES:
        publish(tmp_path, place)
    return tmp_path


def user(role: str | None) -> dict[str, str]:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return {
        "Authorization": f"Bearer {get_auth_manager().generate_jwt(SimpleAuthManagerUser(username='ada', role=role))}"
    }


@pytest.fixture
def client() -> Iterator[TestClient]:
    from airflow.api_fastapi.app import init_auth_manager

    from boig_core.orchestration.ui.plugin import BoigPlugin

    init_auth_manager()
    [mounted] = BoigPlugin().fastapi_apps
    with TestClient(mounted["app"], follow_redirects=False) as result:
        yield result


def test_a_reader_sees_pages_and_pictures_with_their_types_and_a_policy_that_runs_nothing(
    root: Path, client: TestClient
) -> None:
    seen = {
        "/reports/v1/report.html": "text/html; charset=utf-8",
        "/reports/v1/report.json": "application/json",
        "/evaluations/generation/v1/grids/000.png": "image/png",
        "/evaluations/comparison/v1/report.html": "text/html; charset=utf-8",
        "/datasets/acme/v1/card.html": "text/html; charset=utf-8",
    }
    for path, media in seen.items():
        place, _, name = path[1:].partition("/v1/")
        answer = client.get(path, headers=user("VIEWER"))
        assert (answer.status_code, answer.content) == (200, FILES[f"{place}/v1"][1][name])
        assert answer.headers["content-type"] == media
        policy = answer.headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert not [rule for rule in policy if rule.startswith("script-src")]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/reports/v1/report.html",
        "/evaluations/generation/v1/grids/000.png",
        "/datasets/acme/v1/card.html",
    ],
)
def test_nobody_else_sees_anything(root: Path, client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer made.up.token"}).status_code == 403
    assert client.get(path, headers=user(None)).status_code == 403
    asked = client.get(path, headers={"Accept": "text/html,*/*"})
    assert asked.status_code == 307
    assert asked.headers["x-content-type-options"] == "nosniff"
    assert asked.headers["location"] == f"/api/v2/auth/login?next={path}"


@pytest.mark.parametrize(
    "path",
    [
        "/reports/v1/manifest.json",
        "/reports/v1/nothing.html",
        "/reports/v2/report.html",
        "/evaluations/generation/v1/images.parquet",
        "/evaluations/generation/v1/..%2f..%2f..%2freports/v1/report.html",
        "/reports/%2e%2e/models/boigsd/v1/card.html",
        "/reports/v1/%2e%2e/%2e%2e/secret.html",
        "/reports/v1/%2fetc%2fhosts.html",
        "/reports/..%5c..%5csecret/x.html",
        "/models/boigsd/v1/card.html",
        "/runs/d/r/report/attempt-1/commit.json",
    ],
)
def test_what_no_committed_manifest_of_a_shown_family_lists_is_not_there(
    root: Path, client: TestClient, path: str
) -> None:
    (root / "secret.html").write_text("secret")
    (root / "store" / "secret.html").write_text("secret")
    answer = client.get(path, headers=user("ADMIN"))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_an_uncommitted_or_altered_page_and_a_store_that_is_not_set_are_said(
    root: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "store/datasets/acme/v1/card.html").write_bytes(b"<!doctype html>altered")
    altered = client.get("/datasets/acme/v1/card.html", headers=user("ADMIN"))
    assert (altered.status_code, "differs from its manifest" in altered.json()["detail"]) == (
        404,
        True,
    )
    (root / "store/runs/d/r/report/attempt-1/commit.json").unlink()
    uncommitted = client.get("/reports/v1/report.html", headers=user("ADMIN"))
    assert (uncommitted.status_code, "has not committed" in uncommitted.json()["detail"]) == (
        404,
        True,
    )
    monkeypatch.delenv("BOIG_STORE")
    assert (
        "BOIG_STORE is not set"
        in client.get("/reports/v1/report.html", headers=user("ADMIN")).json()["detail"]
    )


def test_the_api_server_shows_them_behind_its_own_login(root: Path, tmp_path: Path) -> None:
    port, services = next(PORTS), Services(tmp_path / "home")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "boig.py").write_text(
        "from boig_core.orchestration.ui.plugin import BoigPlugin\n"
    )
    (tmp_path / "passwords.json").write_text(json.dumps({"ada": "secret"}))
    base = f"http://127.0.0.1:{port}"
    settings = {
        "CORE__PLUGINS_FOLDER": str(tmp_path / "plugins"),
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:viewer",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(tmp_path / "passwords.json"),
        "API__BASE_URL": base,
        "API__WORKERS": "1",
    }
    env = {**os.environ, **{f"AIRFLOW__{name}": value for name, value in settings.items()}}
    services.start(
        "api",
        [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)],
        env,
    )
    try:
        services.wait_until("api", lambda: answers(f"{base}/api/v2/version"), 280)
        with httpx.Client(base_url=base, trust_env=False, timeout=300) as http:
            page = "/boig/reports/v1/report.html"
            assert http.get(page).status_code == 401
            login = http.get(page, headers={"Accept": "text/html"})
            assert (login.status_code, login.headers["location"]) == (
                307,
                f"/api/v2/auth/login?next={page}",
            )
            token = http.post("/auth/token", json={"username": "ada", "password": "secret"}).json()[
                "access_token"
            ]
            for proof in (
                {"headers": {"Authorization": f"Bearer {token}"}},
                {"cookies": {"_token": token}},
            ):
                assert http.get(page, **proof).text == "<!doctype html>a report"
    finally:
        services.stop_all()


def test_the_entry_point_of_the_package_is_the_plugin() -> None:
    import importlib
    import tomllib

    project: dict[str, Any] = tomllib.loads(
        (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    )["project"]
    module, _, name = project["entry-points"]["airflow.plugins"]["boig"].partition(":")
    plugin = getattr(importlib.import_module(module), name)
    from airflow.plugins_manager import AirflowPlugin

    assert issubclass(plugin, AirflowPlugin)
    assert plugin().name == "boig"
