from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from boig_core.errors import StoreUnavailableError
from boig_core.storage import store
from boig_core.training.checkpoint import COMPLETE, Checkpoints


@dataclass
class Number:
    """Something with a state."""

    value: int = 0

    def save(self, folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "value.txt").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = int((folder / "inner" / "value.txt").read_text())


def test_the_furthest_complete_checkpoint_of_any_attempt_is_restored(tmp_path: Path) -> None:
    task = str(tmp_path / "task")
    Checkpoints(task, 1).save(Number(10), 100, {"cursor": [1, 0.1], "rewards": {"p": 2.5}})
    Checkpoints(task, 1).save(Number(20), 200, {"cursor": [2, 0.2]})
    Checkpoints(task, 2).save(Number(11), 100)
    number = Number()
    restored = Checkpoints(task, 3).restore(number)
    assert restored is not None
    assert (number.value, restored.step, restored.state) == (20, 200, {"cursor": [2, 0.2]})
    assert not (tmp_path / "task" / "attempt-3").exists(), "older attempts are read, never written to"


def test_attempts_that_come_later_and_other_names_do_not_count(tmp_path: Path) -> None:
    task = str(tmp_path)
    Checkpoints(task, 4).save(Number(4), 400)
    Checkpoints(task, 1, "twin").save(Number(9), 900)
    Checkpoints(task, 1).save(Number(1), 100)
    number = Number()
    restored = Checkpoints(task, 3).restore(number)
    assert restored is not None
    assert (number.value, restored.step) == (1, 100)


def test_without_any_checkpoint_nothing_is_restored(tmp_path: Path) -> None:
    number = Number(7)
    assert Checkpoints(str(tmp_path), 1).restore(number) is None
    assert number.value == 7


@pytest.mark.parametrize("harm", ["no marker", "torn file", "missing file", "altered file"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, harm: str) -> None:
    points = Checkpoints(str(tmp_path), 1)
    points.save(Number(10), 100)
    newest = Path(points.save(Number(20), 200))
    file = newest / "inner" / "value.txt"
    if harm == "no marker":
        (newest / COMPLETE).unlink()
    elif harm == "missing file":
        file.unlink()
    else:
        file.write_text("2" if harm == "torn file" else "99")
    number = Number()
    restored = points.restore(number)
    assert restored is not None
    assert (number.value, restored.step) == (10, 100)


def test_the_marker_comes_last_and_names_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Checkpoints(str(tmp_path), 1)
    uri = points.save(Number(10), 100)
    marker = json.loads(store.read_bytes(store.join(uri, COMPLETE)))
    assert [entry["path"] for entry in marker["files"]] == ["inner/value.txt"]

    def away(local: Path, uri: str) -> None:
        raise StoreUnavailableError(uri, "the store does not answer", "try again")

    monkeypatch.setattr(store, "upload_file", away)
    with pytest.raises(StoreUnavailableError):
        points.save(Number(20), 200)
    assert points.found() == [uri]
