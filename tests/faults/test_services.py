"""Where Postgres is missing, the tests that need it are skipped with a reason; on CI they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.evidence.orchestration import airflow_on_postgres
from tests.faults.installation import need_postgres


def test_without_postgres_tests_are_skipped_and_fail_on_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(airflow_on_postgres, "POSTGRES", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install Postgres"):
        need_postgres()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install Postgres"):
        need_postgres()
