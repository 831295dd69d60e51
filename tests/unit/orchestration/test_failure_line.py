"""The line that says why a task has failed: the last of its log, and outside the part that
Airflow's page folds up."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from boig_core.config import load_recipe
from boig_core.errors import RecipeError
from boig_core.orchestration.signals.callbacks import on_failure


def test_field_value_rule_and_remedy_end_the_log_and_are_not_folded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(RecipeError) as wrong:
        load_recipe("tiny", ["ddpo.epochs=-1"])
    assert wrong.value.__suppress_context__, "pydantic's text would stand below ours"
    with caplog.at_level(logging.INFO):
        on_failure(
            {
                "ti": SimpleNamespace(dag_id="boig_ingest", run_id="r", task_id="plan"),
                "exception": wrong.value,
            }
        )
    assert caplog.messages[-2] == "::endgroup::"
    assert (
        "ddpo.epochs = -1: input should be greater than or equal to 1; see `boig recipe show tiny`"
        in caplog.messages[-1]
    )
