"""Real Ray: what training workers log stands in the stage's kept log, once, in order and while they
train; whoever is lost meanwhile."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import ray
import torch
import torch.distributed as dist

from boig_core.cluster import relay
from boig_core.cluster.relay import Letterbox, received, sent_to
from boig_core.cluster.train import run_training
from boig_core.config import Resources
from boig_core.errors import ScorerError
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import configure_logging, get_logger

pytestmark = pytest.mark.usefixtures("ray_cluster")

PATIENCE_S: Final = 120.0
log = get_logger("ray_jobs.told")


class Kept:
    """What the test's process keeps of its log; a worker that waits for a line (`wait_for`) goes on
    when that is written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = folder, ""

    def put(self, number: int, chunk: bytes) -> None:
        self.text += chunk.decode()
        (self.folder / "kept").write_text(self.text)

    @property
    def lines(self) -> list[str]:
        """Level, logger and message of the lines that this test's workers and `run_training`
        logged."""
        ours = ("ray_jobs.told: ", "boig_core.cluster.train: ")
        return [
            " ".join(line.split()[1:])
            for line in self.text.splitlines()
            if any(name in line for name in ours)
        ]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def trained(kept: Kept, fn: Callable[[dict[str, Any]], Any], workers: int, **options: Any) -> Any:
    with KeptLog(kept.put, every_s=0.1):
        return run_training(
            fn,
            {"folder": kept.folder},
            workers=workers,
            resources=Resources(cpus=1),
            scratch=kept.folder / "scratch",
            **options,
        )


def wait_for(folder: Path, line: str) -> None:
    """Until the line stands in the kept log of the stage's process."""
    ended, kept = time.monotonic() + PATIENCE_S, folder / "kept"
    while not kept.exists() or line not in kept.read_text():
        assert time.monotonic() < ended, f"{line!r} was never kept"
        time.sleep(0.05)


def tells(config: dict[str, Any]) -> str:
    """Two ranks; the end waits until all that was said before is kept."""
    rank = ray.train.get_context().get_world_rank()
    os.environ["SOME_API_KEY"] = "planted-in-the-worker"
    log.info("rank %d begins", rank)
    if rank == 0:
        for step in range(50):
            log.info("step %d", step)
        log.warning("the key is planted-in-the-worker")
        logging.getLogger("a_library").warning("a library complains")
        wait_for(config["folder"], "rank 1: it is warm")
        wait_for(config["folder"], "the key is")
    else:
        log.warning("it is %s", "warm")
        wait_for(config["folder"], "the key is")
    try:
        raise KeyError("a cause")
    except KeyError:
        log.error("rank %d ends", rank, exc_info=rank == 0)
    return "result"


def test_lines_are_kept_once_in_order_while_it_trains(kept: Kept) -> None:
    assert trained(kept, tells, 2) == "result"
    own = [line for line in kept.lines if "rank 1" not in line]
    messages = [
        f"INFO ray_jobs.told: {line}"
        for line in ("rank 0 begins", *(f"step {step}" for step in range(50)))
    ]
    assert own == [
        *messages,
        "WARNING ray_jobs.told: the key is [SOME_API_KEY]",
        "ERROR ray_jobs.told: rank 0 ends",
    ]
    others = [line for line in kept.lines if "rank 1" in line]
    assert others == [
        "WARNING ray_jobs.told: rank 1: it is warm",
        "ERROR ray_jobs.told: rank 1: rank 1 ends",
    ]
    assert kept.text.count("KeyError: 'a cause'") == 1
    # What Ray prints on the terminal, too, holds the rest and nothing of that.
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    printed = "".join(path.read_text() for path in logs.glob("worker-*.out"))
    assert "rank 1 begins" in printed
    assert "a library complains" in printed
    assert not any(
        line in printed for line in ("step 7", "it is warm", "the key is", "rank 0 ends")
    )


def goes_wrong(config: dict[str, Any]) -> None:
    """Rank 1 is killed once what it and rank 0 said is kept; the next time rank 0 fails by
    infrastructure, then by its rewards."""
    folder, rank = config["folder"], ray.train.get_context().get_world_rank()
    starts = len(list(folder.glob("start-*")))
    if rank == 0:
        log.info("rank 0 begins start %d", starts)
    if starts == 0:
        if rank == 1:
            log.warning("goes down")
            wait_for(folder, "goes down")
            wait_for(folder, "rank 0 begins start 0")
            (folder / "start-0").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1))  # with who is gone
    dist.barrier()  # else a rank could count the other's start
    if rank == 0:
        (folder / f"start-{starts}").touch()
        raise (
            ScorerError("score nan", "must be finite", "look at the images")
            if starts == 2
            else ConnectionError("a fault")
        )


def test_a_killed_rank_and_errors_take_no_line_and_a_wrong_reward_starts_no_group_again(
    kept: Kept,
) -> None:
    with pytest.raises(ScorerError, match="must be finite"):
        trained(kept, goes_wrong, 2)
    assert sorted(kept.lines[:2]) == [
        "INFO ray_jobs.told: rank 0 begins start 0",
        "WARNING ray_jobs.told: rank 1: goes down",
    ]
    ended = "WARNING boig_core.cluster.train: training workers ended after"
    begins = [f"INFO ray_jobs.told: rank 0 begins start {start}" for start in (1, 2)]
    assert [line if line in begins else line[: len(ended)] for line in kept.lines[2:]] == [
        ended,
        begins[0],
        ended,
        begins[1],
    ]


@ray.remote(num_cpus=0)
def says(letterbox: Any, text: str) -> str:
    """A worker's life: configure, log, end."""
    configure_logging()
    with sent_to(letterbox, 0):
        log.info("%s", text)
    return text


def test_a_letterbox_that_dies_comes_back(kept: Kept) -> None:
    with KeptLog(kept.put, every_s=0.1), received() as letterbox:
        ray.get(says.remote(letterbox, "before"))
        wait_for(kept.folder, "before")
        ray.kill(letterbox, no_restart=False)
        ray.get(says.remote(letterbox, "after"))
    assert kept.lines == ["INFO ray_jobs.told: before", "INFO ray_jobs.told: after"]


def test_without_a_letterbox_a_worker_goes_on_and_the_log_says_what_is_missing(kept: Kept) -> None:
    with KeptLog(kept.put, every_s=0.1), received() as letterbox:
        ray.kill(letterbox)
        assert ray.get(says.remote(letterbox, "unheard")) == "unheard"
    assert kept.text.count("lines of the training workers are missing from here on") == 1


def test_a_flood_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_WAITING", 2)
    letterbox = Letterbox()
    for number in range(5):
        letterbox.put(("boig_core", logging.INFO, 0.0, f"line {number}"))
    *lines, (_, level, _, text) = letterbox.take()
    assert [text for *_, text in lines] == ["line 0", "line 1"]
    assert (level, text.partition(" lines")[0]) == (logging.WARNING, "3")
    assert letterbox.take() == []


def test_a_line_that_cannot_be_sent_stays_with_the_worker() -> None:
    class Full:
        class put:
            @staticmethod
            def remote(line: Any) -> Any:
                raise ray.exceptions.PendingCallsLimitExceeded

    stayed: list[str] = []

    class Here(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stayed.append(record.getMessage())

    relay.ToStage(Full, 0, Here()).handle(
        logging.LogRecord("boig_core.x", logging.INFO, "x.py", 1, "a line", None, None)
    )
    assert stayed == ["a line"]


def test_rows_that_cannot_be_sent_go_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_EVERY_S", 0.0)
    arrived: list[Any] = []
    full = [True, False]

    class Letters:
        class put_rows:
            @staticmethod
            def remote(rows: Any) -> Any:
                if full.pop(0):
                    raise ray.exceptions.PendingCallsLimitExceeded
                arrived.append(rows)

    rows = relay.RowSender(Letters)
    rows(1, {"loss": 2.0})
    rows(2, {"loss": 1.0})
    rows.drain()
    assert arrived == [[(1, {"loss": 2.0}), (2, {"loss": 1.0})]]
