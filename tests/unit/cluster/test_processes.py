"""Work spread over processes of this machine comes out whatever becomes of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from boig_core.cluster.processes import DEATHS

ROOT = Path(__file__).resolve().parents[3]
# Apart, since the process that forks is one for all of a process's tests, and others need another.
COMMAND = [sys.executable, "-m", "tests.unit.cluster.odd_work"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def spread(folder: Path, *items: str) -> list[str]:
    """What came of the items, sorted."""
    return sorted(
        subprocess.run(
            [*COMMAND, str(folder), *items],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()
    )


def test_each_item_is_done_though_processes_die(tmp_path: Path) -> None:
    items = ["a", "dies-once-1", "b", "dies-once-2", "c"]
    came = [line for line in spread(tmp_path, *items) if "WARNING" not in line]
    assert came == [f"{number} {item}" for number, item in enumerate(items)]


def test_an_item_that_kills_each_process_ends_the_work(tmp_path: Path) -> None:
    last = spread(tmp_path, "dies")[-1]
    assert last.startswith("ClusterError: item 0: has lost its process")
    assert "exit code -9" in last
    assert (tmp_path / "dies").stat().st_size == DEATHS + 1


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("wrong", "InputError: x: is wrong; mend it"),
        # Of the kind of errors that a closed pipe raises.
        ("away", "StoreUnavailableError: s3://b: is away; wait"),
    ],
)
def test_what_the_work_raises_arrives_as_it_is(item: str, error: str, tmp_path: Path) -> None:
    assert spread(tmp_path, item, "waits")[-1] == error


def test_an_error_that_cannot_travel_is_told(tmp_path: Path) -> None:
    told = spread(tmp_path, "odd")[-1]
    assert told.startswith("RuntimeError: Traceback")
    assert "OddError: very odd" in told


def test_processes_end_with_their_parent_in_the_middle_of_an_item(tmp_path: Path) -> None:
    parent = subprocess.Popen([*COMMAND, str(tmp_path), "waits", "waits"], env=ENVIRONMENT)
    end = time.monotonic() + 30
    while len(pids := {int(path.name[4:]) for path in tmp_path.glob("pid-*")}) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)
