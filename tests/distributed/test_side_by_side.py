"""Real Ray: trainings side by side say which of them speaks, share one curve, and end together when
one of them fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from boig_core.cluster.side_by_side import run_trainings
from boig_core.config import Resources
from boig_core.errors import InputError
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import get_logger

pytestmark = pytest.mark.usefixtures("ray_cluster")

PATIENCE_S: Final = 120.0
log = get_logger("ray_jobs.side")


def wait_until(came: Callable[[], bool], what: str) -> None:
    ended = time.monotonic() + PATIENCE_S
    while not came():
        assert time.monotonic() < ended, f"{what} never came"
        time.sleep(0.05)


def wait_for(path: Path) -> None:
    wait_until(path.exists, path.name)


def not_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"workers": 1, "resources": Resources(cpus=1), "scratch": folder / "scratch", **more}


def meets(config: dict[str, Any]) -> str:
    """Ends once the other one has begun, too."""
    folder, name = config["folder"], config["name"]
    (folder / name).touch()
    wait_for(folder / config["other"])
    for step in range(3):
        config["rows"](step, {f"{name}_loss": float(step)})
    log.info("met %s", config["other"])
    return f"result of {name}"


def test_two_trainings_meet_and_share_a_log_and_a_curve(tmp_path: Path) -> None:
    rows: list[tuple[int, dict[str, float]]] = []
    kept: list[str] = []
    configs = {
        name: {"folder": tmp_path, "name": name, "other": other}
        for name, other in (("first", "second"), ("second", "first"))
    }
    with KeptLog(lambda number, chunk: kept.append(chunk.decode()), every_s=0.1):
        messages = options(tmp_path, on_row=lambda step, values: rows.append((step, values)))
        results = run_trainings(meets, configs, at_once=2, **messages)
    assert results == {"first": "result of first", "second": "result of second"}
    for name, other in (("first", "second"), ("second", "first")):
        assert f"ray_jobs.side: {name}: met {other}\n" in "".join(kept)
        assert [row for row in rows if f"{name}_loss" in row[1]] == [
            (step, {f"{name}_loss": float(step)}) for step in range(3)
        ]


def fails_or_lasts(config: dict[str, Any]) -> None:
    folder = config["folder"]
    if config["fails"]:
        wait_for(folder / "pid")
        raise InputError("posts", "are wrong", "mend them")
    (folder / "begun").write_text(str(os.getpid()))
    (folder / "begun").rename(folder / "pid")
    with (folder / "starts").open("a") as file:
        file.write("start\n")
    time.sleep(2 * PATIENCE_S)
    (folder / "lasted").touch()


def test_an_error_ends_the_other_training_too(tmp_path: Path) -> None:
    configs = {
        name: {"folder": tmp_path, "fails": name == "wrong"}
        for name in ("lasting", "wrong", "waiting")
    }
    with pytest.raises(InputError, match="mend them"):
        run_trainings(fails_or_lasts, configs, at_once=2, **options(tmp_path))
    wait_until(
        lambda: not_running(int((tmp_path / "pid").read_text())), "the end of the other worker"
    )
    assert not (tmp_path / "lasted").exists()
    assert (tmp_path / "starts").read_text() == "start\n"  # neither again, nor the one that waited
