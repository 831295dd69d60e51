"""Progress says how many, how fast, what was rejected and how long it will take, and not too often."""

import pytest

from boig_core.observability import progress
from boig_core.observability.progress import Progress


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
