"""Progress says how much, how fast, what was rejected and how long it will take, and not too often."""

import pytest

from boig_core.observability import progress
from boig_core.observability.progress import Progress, Steps, left


def test_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    work = Progress("images", 300, said.append)
    now[0] = 9.0
    work.add([None] * 50)
    assert said == []
    now[0] = 10.0
    work.add([None] * 47 + ["http_error", "image_missing", "image_missing"])
    assert said == ["100 of 300 images · 10/s · 97 accepted · rejected: image_missing 2, http_error 1 · about 0:20 left"]
    work.add([None] * 200)
    work.close()
    assert said[1:] == ["300 of 300 images · 30/s · 297 accepted · rejected: image_missing 2, http_error 1"]


def test_steps_are_told_first_last_and_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    training = Steps(1000, 400, 16, "samples", said.append)  # goes on where another process was
    for done in range(401, 1001):
        now[0] += 8.0 if done == 401 else 0.5
        training.made(done, 2.0 / done)
    assert said[:2] == [
        "step 401 of 1000 · loss 0.004988 · 2 samples/s · about 1 h 19 left",
        "step 421 of 1000 · loss 0.004751 · 32 samples/s · about 4:50 left",
    ]
    assert said[-1] == "step 1000 of 1000 · loss 0.002 · 32 samples/s"
    assert len(said) == 1 + 29 + 1


def test_time_left() -> None:
    assert [left(seconds) for seconds in (0.4, 65, 3599.4, 3599.6, 90_000)] == [
        "about 0:00 left",
        "about 1:05 left",
        "about 59:59 left",
        "about 1 h 00 left",
        "about 25 h 00 left",
    ]
