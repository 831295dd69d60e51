"""The order of trainings, with a stand-in for what runs one;
`tests/distributed/test_side_by_side.py` runs real ones."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from boig_core.cluster import side_by_side


def test_one_at_a_time_keeps_the_order_in_the_main_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str, str]] = []

    def run_training(
        fn: Any, config: str, *, name: str, scratch: Path, stop: threading.Event
    ) -> str:
        events.append(("begins", name, threading.current_thread().name))
        assert scratch == tmp_path / name
        events.append(("ends", name, threading.current_thread().name))
        return f"{name} with {config}"

    monkeypatch.setattr(side_by_side, "run_training", run_training)
    results = side_by_side.run_trainings(
        print, {"b": {"x": 1}, "a": {"x": 2}}, at_once=1, scratch=tmp_path
    )
    assert results == {"b": "b with {'x': 1}", "a": "a with {'x': 2}"}
    main = threading.main_thread().name
    assert events == [(what, name, main) for name in ("b", "a") for what in ("begins", "ends")]
