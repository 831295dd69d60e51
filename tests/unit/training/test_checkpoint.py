from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from boig_core.errors import RecipeError, StoreUnavailableError
from boig_core.storage import store
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.checkpoint_marker import COMPLETE
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig


@dataclass
class Number:
    """Something with a state."""

    value: int = 0

    def save(self, folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "value.txt").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = int((folder / "inner" / "value.txt").read_text())


def saved(
    task: object,
    attempt: int,
    value: int,
    step: int,
    name: str = "",
    state: dict[str, object] | None = None,
) -> Path:
    """A complete checkpoint of a number."""
    points = Checkpoints(str(task), attempt, name)
    uri = points.save(Number(value), step, state)
    points.wait()
    return Path(uri)


def away(*args: object, **kwargs: object) -> None:
    raise StoreUnavailableError("s3://bucket", "the store does not answer", "try again")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where snapshots lie for a while."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_furthest_complete_checkpoint_of_any_attempt_is_restored(
    tmp_path: Path, scratch: Path
) -> None:
    task = tmp_path / "task"
    saved(task, 1, 10, 100, state={"cursor": [1, 0.1], "rewards": {"p": 2.5}})
    saved(task, 1, 20, 200, state={"cursor": [2, 0.2]})
    saved(task, 2, 11, 100)
    number = Number()
    restored = Checkpoints(str(task), 3).restore(number)
    assert restored is not None
    assert (number.value, restored.step, restored.state) == (20, 200, {"cursor": [2, 0.2]})
    assert not (task / "attempt-3").exists(), "older attempts are read, never written to"
    assert not list(scratch.iterdir()), "nothing stays on the local disk"


def test_attempts_that_come_later_and_other_names_do_not_count(tmp_path: Path) -> None:
    saved(tmp_path, 4, 4, 400)
    saved(tmp_path, 1, 9, 900, "twin")
    saved(tmp_path, 1, 1, 100)
    number = Number()
    restored = Checkpoints(str(tmp_path), 3).restore(number)
    assert restored is not None
    assert (number.value, restored.step) == (1, 100)


def test_without_any_checkpoint_nothing_is_restored(tmp_path: Path) -> None:
    number = Number(7)
    assert Checkpoints(str(tmp_path), 1).restore(number) is None
    assert number.value == 7


@pytest.mark.parametrize(
    "harm",
    ["no marker", "torn marker", "newer format", "torn file", "missing file", "altered file"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, harm: str) -> None:
    saved(tmp_path, 1, 10, 100)
    newest = saved(tmp_path, 1, 20, 200)
    (file,) = newest.rglob("value.txt")
    if harm == "no marker":
        (newest / COMPLETE).unlink()
    elif harm == "torn marker":
        (newest / COMPLETE).write_text('{"step": 2')
    elif harm == "newer format":
        (newest / COMPLETE).write_text(
            json.dumps({**json.loads((newest / COMPLETE).read_text()), "format": 99})
        )
    elif harm == "missing file":
        file.unlink()
    else:
        file.write_text("2" if harm == "torn file" else "99")
    number = Number()
    restored = Checkpoints(str(tmp_path), 1).restore(number)
    assert restored is not None
    assert (number.value, restored.step) == (10, 100)


def test_training_goes_on_while_a_checkpoint_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    engine = Engine.create(nn.Linear(4, 1), EngineConfig(lr=1e-2, steps=2, zero_stage=1))
    points, gate, send = Checkpoints(str(tmp_path), 1), threading.Event(), store.upload_file
    senders: set[str] = set()

    def held(local: Path, uri: str, move: bool = False) -> None:
        senders.add(threading.current_thread().name)
        assert gate.wait(60)
        send(local, uri, move)

    def step() -> None:
        engine.step([lambda: engine(torch.ones(2, 4)).pow(2).mean()])

    monkeypatch.setattr(store, "upload_file", held)
    step()
    then = engine.state_dict()
    rows = [1]
    uri = points.save(engine, 1, {"rows": rows})
    step()
    rows.append(2)
    assert engine.steps_done == 2
    assert points.found() == [], "nothing is in the store yet"
    gate.set()
    points.wait()
    assert points.found() == [uri]
    assert senders == {"boig-checkpoint"}
    restored = points.restore(engine)
    assert restored is not None
    assert restored.state == {"rows": [1]}
    assert engine.steps_done == 1
    assert all(torch.equal(tensor, then[name]) for name, tensor in engine.state_dict().items()), (
        "what is sent is the snapshot"
    )


def test_the_marker_comes_last_and_names_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def noted(act: Callable[..., None], position: int) -> Callable[..., None]:
        return lambda *args, **kwargs: (
            written.append(store.name(args[position])),
            act(*args, **kwargs),
        )[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(store, "upload_file", noted(store.upload_file, 1))
    monkeypatch.setattr(store, "write_bytes", noted(store.write_bytes, 0))
    uri = saved(tmp_path, 1, 10, 100)
    assert written == ["value.txt", "part-00000.json", COMPLETE]
    assert [entry["path"] for entry in json.loads((uri / COMPLETE).read_text())["files"]] == [
        "inner/value.txt"
    ]


def test_a_failed_upload_is_told_at_the_next_call_and_leaves_the_one_before(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Checkpoints(str(tmp_path), 1)
    uri = points.save(Number(10), 100)
    points.wait()
    with monkeypatch.context() as broken:
        broken.setattr(store, "upload_file", away)
        points.save(Number(20), 200)
        with pytest.raises(StoreUnavailableError):
            points.save(Number(30), 300)
        points.wait()  # told once
    assert points.found() == [uri]
    assert not list(scratch.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(store, "write_bytes", away)
        points.save(Number(20), 200)
        with pytest.raises(StoreUnavailableError):
            points.wait()
    assert points.found() == [uri]


KILLED = """
import os, sys
from boig_core.storage import store
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.checkpoint_marker import COMPLETE

class Text:
    def __init__(self, text): self.text = text
    def save(self, folder): (folder / "text").write_text(self.text)

points = Checkpoints(sys.argv[1], 1)
points.save(Text("one"), 100)
points.wait()
put = store.write_bytes
store.write_bytes = lambda uri, data: os._exit(9) if uri.endswith(COMPLETE) else put(uri, data)
points.save(Text("two"), 200)
points.wait()
"""


def test_a_process_killed_before_the_marker_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "task")],
        env=environment,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 9
    texts = sorted(path.read_text() for path in (tmp_path / "task").rglob("text"))
    assert texts == ["one", "two"], "all was sent but the marker"
    assert [store.name(uri) for uri in Checkpoints(str(tmp_path / "task"), 2).found()] == [
        "step-000100"
    ]


def test_the_newest_two_of_an_attempt_stay(tmp_path: Path) -> None:
    saved(tmp_path, 1, 1, 900, "twin")
    saved(tmp_path, 1, 1, 100)
    for step in (200, 300, 1_000_000):
        saved(tmp_path, 2, step, step)
    (tmp_path / "attempt-2" / "checkpoints" / "step-000250" / "x").mkdir(parents=True)
    (tmp_path / "attempt-2" / "checkpoints" / "step-000250" / "x" / "part").write_text(
        "of a save that never ended"
    )
    newest = saved(tmp_path, 2, 2, 2_000_000)
    assert [Path(uri).name for uri in Checkpoints(str(tmp_path), 2).found()] == [
        "step-2000000",
        "step-1000000",
        "step-000100",
    ]
    assert {path.split("/")[0] for path, _ in store.list_files(str(newest.parent))} == {
        "step-1000000",
        "step-2000000",
    }
    assert len(Checkpoints(str(tmp_path), 2, "twin").found()) == 1


def test_a_step_written_twice_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = saved(tmp_path, 1, 20, 200)
    again = Checkpoints(str(tmp_path), 1)
    with monkeypatch.context() as broken:
        broken.setattr(store, "write_bytes", away)
        again.save(Number(21), 200)
        with pytest.raises(StoreUnavailableError):
            again.wait()
    number = Number()
    assert Checkpoints(str(tmp_path), 1).restore(number) is not None
    assert number.value == 20
    assert saved(tmp_path, 1, 21, 200) == newest
    Checkpoints(str(tmp_path), 1).restore(number)
    assert number.value == 21


def test_a_checkpoint_of_another_model_is_one_clear_error(tmp_path: Path) -> None:
    points = Checkpoints(str(tmp_path), 1)
    points.save(Engine.create(nn.Linear(4, 1), EngineConfig(lr=1e-2, steps=2)), 1)
    wider = Engine.create(nn.Linear(5, 1), EngineConfig(lr=1e-2, steps=2))
    with pytest.raises(
        RecipeError,
        match=r"trained parameter weight: has shape \[1, 4\] in the checkpoint and \[1, 5\]",
    ):
        points.restore(wider)


def test_on_s3_threads_send_remove_and_are_read_back(s3_bucket: str) -> None:
    points = Checkpoints(f"{s3_bucket}/task", 1, "model")
    uris = [points.save(Number(step), step) for step in (100, 200, 300)]
    points.wait()
    assert points.found() == [uris[2], uris[1]]
    assert store.list_files(uris[0]) == []
    number = Number()
    assert Checkpoints(f"{s3_bucket}/task", 2, "model").restore(number) is not None
    assert number.value == 300
