"""What a task's log gets of a job: text that acts on nothing and forges no line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from boig_core.errors import InputError
from boig_core.orchestration.jobs.task_log import TaskLog
from boig_core.orchestration.signals.callbacks import Cause
from boig_core.orchestration.stage import operator
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.storage import store

ATTACKS = [
    "\x1b[31mred",
    "\x1b]8;;https://evil.example\x1b\\click",
    "\x9b2J",
    "good\rbad",
    "gpj.\u202egnp.exe",
    "\u2066a\u2069",
    "a\x85b",
    "a\u2028b",
    "a\x0cb",
]


def acts(text: str) -> bool:
    return any(sign in text for sign in "\x1b\x9b\r\u202e\u2066\u2069\x85\u2028\x0c")


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_a_kept_log_is_shown_line_by_line_with_nothing_that_acts(
    attack: str, tmp_path: Path
) -> None:
    store.write_bytes(f"{tmp_path}/log/000001.txt", f"one {attack}\ntwo\n".encode())
    lines: list[str] = []
    TaskLog(str(tmp_path), lines.append).show()
    assert len(lines) == 2
    assert lines[1] == "two"
    assert not acts(lines[0])
    assert "\\x" in lines[0] or "\\u" in lines[0]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_the_last_words_that_ray_has_act_no_more(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    task = RayJobOperator(task_id="t", stage="ingest", plan={}, inputs={})
    monkeypatch.setattr(operator, "ask", lambda cluster, question: f"100 % \x1b[0m{attack}\nlast")
    monkeypatch.setattr("boig_core.orchestration.jobs.clusters.find", lambda: None)
    logger = logging.Logger("noted")
    logger.addHandler(Noted())
    monkeypatch.setattr(type(task), "log", logger)
    task._show_tail("boig-x")
    assert shown[-1] == "last"
    assert shown[0].startswith("100 % ")
    assert not acts("".join(shown))


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_an_alert_says_why_in_one_line_of_plain_text(attack: str) -> None:
    for error in (InputError(attack, "is odd", attack), ValueError(f"odd {attack}")):
        cause = Cause.of(error)
        assert not acts(cause.message + cause.remedy)
        assert "\n" not in cause.message + cause.remedy
