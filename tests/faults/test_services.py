"""Where Postgres is missing, the tests that need it are skipped with a reason; on CI they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import airflow_services


def test_without_postgres_tests_are_skipped_and_fail_on_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(airflow_services, "POSTGRES", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Postgres is not installed"):
        airflow_services.postgres_programs()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Postgres is not installed"):
        airflow_services.postgres_programs()
