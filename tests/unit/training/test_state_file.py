"""A checkpoint is data: whatever stands in a file that a resume reads, nothing of it runs."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boig_core.diffusion.lora import Adapter, checksum
from boig_core.diffusion.state import AlignmentState, Average
from boig_core.errors import BoigError, CorruptError, InputError
from boig_core.llm.best import FinetuneState
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.checkpoint_upload import COMPLETE
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig
from boig_core.training.ranks import rng_state, set_rng_state
from boig_core.training.state_file import open_arrays, open_state

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.target,)


def tensors_and(harmful: Harmful, path: Path) -> None:
    """What the file holds, and the harmful thing beside it."""
    state = torch.load(path, weights_only=False, map_location="cpu")
    torch.save({**state, "added": harmful}, path)


def pickled(harmful: Harmful, path: Path) -> None:
    path.write_bytes(pickle.dumps(harmful))


def saved_by_torch(harmful: Harmful, path: Path) -> None:
    torch.save(harmful, path)


def saved_the_old_way(harmful: Harmful, path: Path) -> None:
    torch.save({"module": harmful}, path, _use_new_zipfile_serialization=False)


def object_array(harmful: Harmful, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, arr_0=np.array([harmful], dtype=object))


WAYS = (tensors_and, pickled, saved_by_torch, saved_the_old_way)


def make_engine(stage: int, dtype: str = "float32") -> Engine:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).to(getattr(torch, dtype))
    engine = Engine.create(
        model,
        EngineConfig(lr=1e-2, steps=4, zero_stage=stage, dtype=dtype),  # type: ignore[arg-type]
    )
    inputs = torch.ones(3, 4, dtype=getattr(torch, dtype))
    engine.step([lambda: engine(inputs).float().pow(2).mean()])
    return engine


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    return engine.state_dict()


def refuses(load: Callable[[], object], target: Path, file: str) -> None:
    with pytest.raises(CorruptError) as caught:
        load()
    assert not target.exists(), "it ran"
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "loaded", "dtype"),
    [
        *((stage, stage, "float32") for stage in (0, 2, 3)),
        *((stage, stage, "bfloat16") for stage in (0, 2)),
        (1, 3, "float32"),
    ],
)
def test_no_file_of_an_engine_runs_anything_and_an_honest_one_is_read(
    saved: int, loaded: int, dtype: str, tmp_path: Path
) -> None:
    make_engine(saved, dtype).save(tmp_path / "saved")
    engine, target = make_engine(loaded, dtype), tmp_path / "ran"
    before = weights_of(engine)
    files = sorted((tmp_path / "saved").rglob("*.pt"))
    assert len(files) == (3 if saved else 2), "model, optimizer with ZeRO, random numbers"
    for path in files:
        honest = path.read_bytes()
        for spoil in WAYS:
            spoil(Harmful(target), path)
            refuses(lambda: engine.load(tmp_path / "saved"), target, path.name)
            after = weights_of(engine)
            assert all(torch.equal(after[name], before[name]) for name in before), (
                "nothing is half read"
            )
            path.write_bytes(honest)
    engine.load(tmp_path / "saved")
    assert engine.steps_done == 1


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeeds_own_loader_refuses_it_too(stage: int, tmp_path: Path) -> None:
    engine, target = make_engine(stage), tmp_path / "ran"
    engine.save(tmp_path / "saved")
    for path in sorted((tmp_path / "saved" / "state").glob("*.pt")):
        honest = path.read_bytes()
        tensors_and(Harmful(target), path)
        refuses(
            lambda: engine._engine.load_checkpoint(str(tmp_path / "saved"), tag="state"),
            target,
            path.name,
        )
        path.write_bytes(honest)


def adapter() -> Adapter:
    weights = {"weight": np.ones((2, 4), np.float32), "bias": np.zeros(2, np.float32)}
    return Adapter(1, weights, checksum(weights))


def alignment() -> AlignmentState:
    engine = make_engine(0)
    return AlignmentState(engine, 1.0, adapter(), Average(engine.module, 0.9), adapter())


def judged() -> FinetuneState:
    state = FinetuneState(make_engine(2))
    state.judge(0, 2.0)
    state.judge(1, 1.0)
    return state


@pytest.mark.parametrize(
    ("make", "file", "spoil"),
    [
        *((alignment, f"{name}.npz", spoil) for name in ("ema", "best", "ahead")
          for spoil in (object_array, pickled, saved_by_torch)),
        *((judged, "best.safetensors", spoil) for spoil in (pickled, saved_by_torch)),
        *((alignment, "rng-00000.pt", spoil) for spoil in WAYS),
        *((judged, "state/mp_rank_00_model_states.pt", spoil) for spoil in WAYS),
    ],
)  # fmt: skip
def test_a_resume_from_the_store_refuses_it_in_one_line_that_names_the_checkpoint(
    make: Callable[[], Any], file: str, spoil: Callable[[Harmful, Path], None], tmp_path: Path
) -> None:
    points, target = Checkpoints(str(tmp_path / "task"), 1), tmp_path / "ran"
    uri = points.save(make(), 1)
    points.wait()
    # As somebody who may write to the store would do it: file and marker agree.
    marker = json.loads((Path(uri) / COMPLETE).read_text())
    path = Path(uri) / marker["folder"] / file
    spoil(Harmful(target), path)
    entry = next(entry for entry in marker["files"] if entry["path"] == file)
    entry |= {
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (Path(uri) / COMPLETE).write_text(json.dumps(marker))
    with pytest.raises(CorruptError) as caught:
        Checkpoints(str(tmp_path / "task"), 2).restore(make())
    assert not target.exists(), "it ran"
    assert str(caught.value).startswith(f"{uri}: {Path(file).name}: ")
    assert str(caught.value).endswith("; remove this checkpoint, or start a new run")


@pytest.mark.parametrize(
    "path", ["../out", "../../out", "a/../../out", "/tmp/out", "a//out", "..\\out", "./out", ""]
)
def test_no_file_of_a_checkpoint_leaves_its_folder(path: str, tmp_path: Path) -> None:
    points = Checkpoints(str(tmp_path / "task"), 1)
    uri = Path(points.save(make_engine(0), 1))
    points.wait()
    marker = json.loads((uri / COMPLETE).read_text())
    for changes in ({"files": [{**marker["files"][0], "path": path}]}, {"folder": path}):
        (uri / COMPLETE).write_text(json.dumps({**marker, **changes}))
        assert Checkpoints(str(tmp_path / "task"), 2).restore(make_engine(0)) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("body", ["[]", "null", '"x"', "{}", '{"format": "x"}', '{"format": 5}'])
def test_a_marker_of_odd_json_is_passed_over(body: str, tmp_path: Path) -> None:
    points = Checkpoints(str(tmp_path / "task"), 1)
    uri = Path(points.save(make_engine(0), 1))
    points.wait()
    (uri / COMPLETE).write_text(body)
    assert points.restore(make_engine(0)) is None


@pytest.mark.parametrize("number", [3, 4])
def test_a_checkpoint_of_an_older_format_is_refused_or_told_and_never_opened(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = Checkpoints(str(tmp_path / "task"), 1)
    uri = Path(points.save(make_engine(0), 1))
    points.wait()
    marker = json.loads((uri / COMPLETE).read_text())
    (uri / COMPLETE).write_text(json.dumps({**marker, "format": number, "work": "0" * 64}))
    with pytest.raises(InputError, match=rf"has format {number}.*end this run with the version"):
        points.restore(make_engine(0))
    caplog.set_level(logging.INFO)
    assert Checkpoints(str(tmp_path / "task"), 2).restore(make_engine(0)) is None
    assert f"attempt 1 passed over: has format {number} of an older version" in caplog.text


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04.", b"neither this nor that"])
def test_what_is_no_state_at_all_is_a_clear_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(data)
    for read in (lambda: open_state(path, ()), lambda: open_arrays(path)):
        with pytest.raises(BoigError, match=r"state\.pt"):
            read()


def test_random_numbers_go_on_through_tensors_and_plain_values(tmp_path: Path) -> None:
    torch.save(rng_state(), tmp_path / "rng.pt")
    drawn = np.random.rand(3), torch.rand(3)
    set_rng_state(open_state(tmp_path / "rng.pt", ()))
    assert np.array_equal(np.random.rand(3), drawn[0])
    assert torch.equal(torch.rand(3), drawn[1])
