"""The demo's view says how far a stage is, from the stage's own log, and fits 80 columns in a
terminal and in a log file."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from boig_core.demo import view as views
from boig_core.demo.notes import StageNotes, closing_line
from boig_core.demo.view import CHAIN, TaskRow, View
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Steps, progress_log
from boig_core.storage import commit, runs, store
from boig_core.storage.stage import log_chunk
from tests.unit.narrow import WIDTH, check_fits

LONG = "boigllm 1 of 2 · step 400 of 1000 · loss 1.234 · 212 samples/s · about 2:45 left"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(views.time, "monotonic", lambda: clock[0])
    return clock


def view_in(*, terminal: bool) -> tuple[View, io.StringIO]:
    out = io.StringIO()
    return View(Console(file=out, force_terminal=terminal, width=WIDTH)), out


def row_of(view: View, task: str) -> TaskRow:
    return next(row for row in view.rows if row.task == task)


def test_a_log_file_gets_a_line_a_change_and_progress_every_half_minute(now: list[float]) -> None:
    view, out = view_in(terminal=False)
    with view:
        row = row_of(view, "finetune_llm")
        for second, state, notes in [
            (0, "running", []),
            (4, "deferred", []),
            (10, "deferred", ["step 1 of 90 · about 9:00 left"]),
            (20, "deferred", ["step 2 of 90 · about 8:50 left"]),
            (41, "deferred", [LONG]),
            (60, "queued", []),
            (80, "success", ["validation loss boigllm 1.234 · no_kpi 1.301"]),
        ]:
            now[0] = 100.0 + second
            view.update(row, state, notes)
    text = out.getvalue()
    check_fits(text)
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "boig_llm",
        "finetune_llm running 0:00",
        "0:10 step 1 of 90 · about 9:00 left",
        "0:41 boigllm 1/2 · step 400/1000 · loss 1.234 · 212 samples/s · 2:45 left",
        "finetune_llm done 1:20 validation loss boigllm 1.234 · no_kpi 1.301",
    ]


def test_a_terminal_shows_every_task_and_what_runs_in_full(now: list[float]) -> None:
    view, _ = view_in(terminal=True)
    view.update(row_of(view, "ingest"), "success", ["4000 samples of 4000 posts"])
    view.update(
        row_of(view, "finetune_llm"),
        "deferred",
        [LONG, "no_kpi 2 of 2 · step 3 of 1000 · about 3:00 left"],
    )
    view.update(row_of(view, "approval"), "awaiting_input", [])
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(view._drawn())
    text = out.getvalue()
    check_fits(text)
    lines = [line.rstrip() for line in text.splitlines()]
    assert [line for line in lines if not line.startswith(" ")] == list(CHAIN)
    assert "4000 samples of 4000 posts" in text
    assert "step 400/1000 · loss 1.234 · 212 samples/s · 2:45 left" in text
    assert "no_kpi 2 of 2 · step 3 of 1000 · about 3:00 left" in text
    assert sum(task in text for tasks in CHAIN.values() for task in tasks) == 12


def keep(attempt: str, number: int = 1) -> KeptLog:
    return KeptLog(
        lambda n, chunk: store.write_bytes(store.join(attempt, "log", log_chunk(n)), chunk),
        first=number,
        every_s=60,
    )


def test_progress_is_known_by_its_logger_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = f"{tmp_path}/runs/boig_llm/r/finetune_llm"
    notes = StageNotes(task, "finetune_llm")
    assert notes.progress() == []
    attempt = commit.attempt_uri(task, 1)
    store.write_bytes(store.join(attempt, "job.json"), b"{}")
    assert notes.progress() == []
    logging.getLogger("boig_core").setLevel(logging.INFO)
    first, second = progress_log("boigllm 1 of 2"), progress_log("no_kpi 2 of 2")
    with keep(attempt) as log:
        first("step 10 of 90 · about 0:40 left")
        get_logger("boig_core.llm").info("step 99 of 99 · about 0:00 left")
        log.write()
        assert notes.progress() == ["boigllm 1 of 2 · step 10 of 90 · about 0:40 left"]
        second("step 1 of 90 · about 0:50 left")
        first("step 20 of 90 · about 0:30 left")
        log.write()
        together = notes.progress()
        assert together == [
            "no_kpi 2 of 2 · step 1 of 90 · about 0:50 left",
            "boigllm 1 of 2 · step 20 of 90 · about 0:30 left",
        ]
        first("step 90 of 90")
        log.write()
        assert notes.progress() == ["no_kpi 2 of 2 · step 1 of 90 · about 0:50 left"]
        second("step 90 of 90")
        log.write()
        assert notes.progress() == ["no_kpi 2 of 2 · step 90 of 90"]
    asked: list[str] = []
    read = store.read_bytes
    monkeypatch.setattr(runs.store, "read_bytes", lambda uri: (asked.append(uri), read(uri))[1])
    assert notes.progress() == ["no_kpi 2 of 2 · step 90 of 90"]
    assert asked == [store.join(attempt, "log", log_chunk(5))]


def test_a_new_attempt_begins_without_the_old_ones_progress(tmp_path: Path) -> None:
    task = f"{tmp_path}/runs/boig_sd/r/ddpo"
    notes = StageNotes(task, "ddpo")
    logging.getLogger("boig_core").setLevel(logging.INFO)
    for number in (1, 2):
        attempt = commit.attempt_uri(task, number)
        store.write_bytes(store.join(attempt, "job.json"), b"{}")
        assert notes.progress() == []
        with keep(attempt):
            progress_log()(f"epoch {number} of 6 · about 0:10 left")
        assert notes.progress() == [f"epoch {number} of 6 · about 0:10 left"]
    commit.commit(
        attempt,
        {},
        {"reward_first": 1.0, "reward_last": 2.5, "epochs": 6, "monitors": {}, "gpu_hours": 0.0},
    )
    assert notes.result() == ["reward 1.000 to 2.500 in 6 epochs"]


def test_a_training_that_ends_early_leaves_no_time_left() -> None:
    answers: list[str] = []
    training = Steps(90, 0, 8, "samples", answers.append)
    training.made(1, 2.0)
    training.end(60)
    assert answers[-1] == "step 60 of 90 · ended early"
    training.end(90)
    assert len(answers) == 2


RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "ingest": (
        {"samples": 3900, "posts": 4000, "rejected": 100},
        "3900 samples of 4000 posts · 100 rejected",
    ),
    "perceive": (
        {"images": 3900, "described": 3000, "objects": {}},
        "3900 images described · 900 known before",
    ),
    "finetune_llm": (
        {
            name: {"steps": 1000, "best_val_loss": loss}
            for name, loss in (("boigllm", 1.2341), ("no_kpi", 1.3006))
        },
        "validation loss boigllm 1.234 · no_kpi 1.301",
    ),
    "evaluate_llm": (
        {
            "colors_iou": {"boigllm-no_kpi": {"high": {"mean": 0.0512}}},
            "parse_rate": {"boigllm": 0.99},
            "n": {},
        },
        "colors IOU +0.051 over no_kpi · 99% parsed",
    ),
    "calibrate": (
        {
            "reward": "contrast",
            "passes": True,
            "auc_test": 0.712,
            "auc_test_interval": [0.65, 0.77],
            "recommended": "dsg",
        },
        "contrast: passes · AUC 0.71 (0.65 to 0.77)",
    ),
    "finetune_sd": ({"steps": 300, "loss": 0.0239}, "loss 0.0239 after 300 steps"),
    "ddpo": (
        {"epochs": 6, "reward_first": 0.5, "reward_last": 1.25, "monitors": {"drift": "drift: …"}},
        "reward 0.500 to 1.250 in 6 epochs · tripped: drift",
    ),
    "evaluate_sd": (
        {"boigsd_reward": 1.5, "base_reward": 0.25, "boigsd_judge": 4.0, "base_judge": 3.5},
        "reward 1.500 (base 0.250) · judge 4.000 (base 3.500)",
    ),
    "report": ({"verdict": "BoigSD beats the base model."}, "its verdict stands below"),
}


@pytest.mark.parametrize("stage", RESULTS)
def test_a_finished_stage_shows_its_result_and_no_gpu_hours(stage: str) -> None:
    metrics, expected = RESULTS[stage]
    used = {"seconds": 12.0, "gpu_hours": 0.0, "cost": 1.0}
    assert closing_line(stage, {**metrics, **used}) == expected
    row = TaskRow("boig", stage, "success", notes=(expected,), seconds=754.0)
    [line] = row.lines(WIDTH)
    check_fits(line)
    assert expected.split(" · ")[0].split(" of ")[0] in line
    assert "gpu_hours" not in closing_line(stage, used)
