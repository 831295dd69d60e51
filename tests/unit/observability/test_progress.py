"""Progress says how much, how fast, what was rejected and how long it will take, and not too
often."""

import pytest

from boig_core.observability import progress
from boig_core.observability.progress import Progress, Steps, fitted, goes_on, left, newest_lines


def test_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    answers: list[str] = []
    work = Progress("images", 300, answers.append)
    now[0] = 9.0
    work.add([None] * 50)
    assert answers == []
    now[0] = 10.0
    work.add([None] * 47 + ["http_error", "image_missing", "image_missing"])
    assert answers == [
        "100 of 300 images · 10/s · 97 accepted · rejected: image_missing 2, http_error 1 · about 0:20 left"
    ]
    work.add([None] * 200)
    work.close()
    assert answers[1:] == [
        "300 of 300 images · 30/s · 297 accepted · rejected: image_missing 2, http_error 1"
    ]


def test_steps_are_told_first_last_and_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    answers: list[str] = []
    training = Steps(1000, 400, 16, "samples", answers.append)  # goes on where another process was
    for done in range(401, 1001):
        now[0] += 8.0 if done == 401 else 0.5
        training.made(done, 2.0 / done)
    assert answers[:2] == [
        "step 401 of 1000 · loss 0.004988 · 2 samples/s · about 1 h 19 left",
        "step 421 of 1000 · loss 0.004751 · 32 samples/s · about 4:50 left",
    ]
    assert answers[-1] == "step 1000 of 1000 · loss 0.002 · 32 samples/s"
    assert len(answers) == 1 + 29 + 1


def test_time_left() -> None:
    assert [left(seconds) for seconds in (0.4, 65, 3599.4, 3599.6, 90_000)] == [
        "about 0:00 left",
        "about 1:05 left",
        "about 59:59 left",
        "about 1 h 00 left",
        "about 25 h 00 left",
    ]


def test_what_has_only_begun_has_no_speed() -> None:
    assert Progress("prompts", 600, print).line() == "0 of 600 prompts"


LINE = "boigllm 1 of 2 · step 400 of 1000 · loss 1.234 · 212 samples/s · about 2:45 left"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, LINE),
        (79, "boigllm 1/2 · step 400/1000 · loss 1.234 · 212 samples/s · 2:45 left"),
        (60, "boigllm 1/2 · step 400/1000 · loss 1.234 · 2:45 left"),
        (40, "boigllm 1/2 · step 400/1000 · 2:45 left"),
        (30, "boigllm 1/2 · 2:45 left"),
        (11, "boigllm 1/2"),
        (10, "boigllm …"),
    ],
)
def test_a_line_loses_words_then_parts_but_keeps_its_beginning_and_the_time_left(
    width: int, expected: str
) -> None:
    assert fitted(LINE, width) == expected
    assert len(expected) <= width


def test_a_line_without_time_left_loses_its_end() -> None:
    assert (
        fitted("validation loss boigllm 1.234 · no_kpi 1.301 · judge 0.5", 45)
        == "validation loss boigllm 1.234 · no_kpi 1.301"
    )
    assert (goes_on("epoch 1 of 6 · about 0:10 left"), goes_on("epoch 6 of 6")) == (True, False)


def test_only_lines_of_the_progress_logger_at_info_are_progress() -> None:
    text = """12:00:01 INFO    boig_core.progress: step 1 of 9
12:00:02 INFO    boig_core.progress.no_kpi-2-of-2: step 2 of 9
12:00:03 WARNING boig_core.progress: step 3 of 9
12:00:04 INFO    boig_core.progressive: step 4 of 9
12:00:05 INFO    boig_core.llm.finetune: boig_core.progress: step 5 of 9
  12:00:06 INFO    boig_core.progress: a line of a traceback
12:00:07 INFO    boig_core.progress: step 6 of 9
"""
    assert list(newest_lines(text).items()) == [
        ("no_kpi-2-of-2", "step 2 of 9"),
        ("", "step 6 of 9"),
    ]


def test_the_end_is_told_once() -> None:
    lines: list[str] = []
    work = Progress("images", 2, lines.append, every_s=0.0)
    work.add([None, None])
    work.close()
    assert [line.partition(" images")[0] for line in lines] == ["2 of 2"]
