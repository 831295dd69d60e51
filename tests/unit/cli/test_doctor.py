"""The doctor against servers that answer, refuse or are something else, and against models that
were altered."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core.cli import doctor

TOKEN = "a-token-of-tests"


class _Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.path == "/health" or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        body = (
            json.dumps({"ray_version": "2.60.0"}).encode() if self.path == "/api/version" else b"OK"
        )
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("RAY_API_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    result = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=result.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{result.server_port}"
    result.shutdown()
    result.server_close()
    thread.join()


def finding(tmp_path: Path, check: str) -> doctor.CheckResult:
    return next(
        result for result in doctor.diagnose(str(tmp_path / "store")) if result.check == check
    )


def test_servers_that_answer(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_ADDRESS", server + "/")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert finding(tmp_path, "ray") == doctor.CheckResult("ray", "ok", f"{server}: Ray 2.60.0")
    assert finding(tmp_path, "mlflow").state == "ok"


def test_missing_token_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_ADDRESS", server)
    result = finding(tmp_path, "ray")
    assert result.state == "failed"
    assert "401" in result.detail
    assert "RAY_AUTH_TOKEN" in result.detail


def test_other_server_is_no_ray(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_ADDRESS", f"{server}/elsewhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert "is no Ray dashboard" in finding(tmp_path, "ray").detail


@pytest.mark.parametrize("harm", ["alter", "remove", "manifest"])
def test_altered_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    copy = tmp_path / "models"
    shutil.copytree(doctor.MODELS_FOLDER, copy)
    monkeypatch.setattr(doctor, "MODELS_FOLDER", copy)
    assert finding(tmp_path, "models").state == "ok"
    target = next(iter(sorted(copy.rglob("*.safetensors"))))
    if harm == "alter":
        target.write_bytes(target.read_bytes()[:-1] + b"\x00\x01")
    elif harm == "remove":
        target.unlink()
    else:
        (copy / "manifest.json").write_text("{}")
    result = finding(tmp_path, "models")
    assert result.state == "failed"
    assert "boig tiny-models" in result.detail
