"""Real processes over gloo: two ranks train as one does, resume exactly, go on as one and back, and stop together."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TRAINING = """
import json, os, signal, sys
from pathlib import Path
import torch
from torch import nn
from boig_core.errors import PreemptedError, TrainingDivergedError
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, EngineConfig, rank, world_size

task, out, (attempt, stop, poison, stage, notice) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
preemption.listen()
torch.manual_seed(1)
inputs = torch.randn(10, 8, 6)
targets = inputs.sum(-1, keepdim=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
engine = Engine.create(model, EngineConfig(lr=1e-2, steps=10, zero_stage=stage))
points = Checkpoints(task, attempt)
restored = points.restore(engine)
losses, error = [], None
try:
    for step in range(engine.steps_done, stop):
        x, y = inputs[step][rank() :: world_size()], targets[step][rank() :: world_size()]
        scale = float("nan") if step == poison and rank() == 1 else 1.0
        if step == notice and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        losses.append(engine.step([lambda: (engine(x) - y).pow(2).mean() * scale]).loss)
        if step == 4 or engine.leaving:
            points.save(engine, step + 1, {"cursor": step})
        if engine.leaving:
            points.leave()
except (TrainingDivergedError, PreemptedError) as exc:
    error = str(exc)
points.wait()
weights = {name: tensor.tolist() for name, tensor in engine.state_dict().items()}
told = {"ranks": world_size(), "from": restored and [restored.step, restored.state], "losses": losses, "error": error, "weights": weights}
Path(f"{out}-{rank()}.json").write_text(json.dumps(told))
os._exit(0)  # gloo's threads may still run at an ordinary exit, which aborts the process now and then; all is written
"""


def train(
    folder: Path, ranks: int, *, task: str, attempt: int = 1, stop: int = 10, poison: int = -1, stage: int = 2, notice: int = -1
) -> list[dict[str, Any]]:
    """What each rank says after a training in processes of its own."""
    script = folder / "training.py"
    script.write_text(TRAINING)
    out = folder / f"{task}-{ranks}-{attempt}-{stop}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    arguments = [str(folder / task), str(out), *(str(number) for number in (attempt, stop, poison, stage, notice))]
    done = subprocess.run(
        [*command, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in range(ranks)]


def test_two_ranks_train_as_one_and_resume_exactly(tmp_path: Path) -> None:
    (alone,) = train(tmp_path, 1, task="alone")
    pair = train(tmp_path, 2, task="pair")
    assert pair[0]["ranks"] == 2
    assert pair[0]["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert pair[0]["losses"] == pair[1]["losses"]
    assert pair[0]["weights"] == pair[1]["weights"]

    first = train(tmp_path, 2, task="cut", stop=7)
    assert first[0]["from"] is None
    second = train(tmp_path, 2, task="cut", attempt=2)
    assert [told["from"] for told in second] == [[5, {"cursor": 4}]] * 2
    assert second[0]["losses"] == pair[0]["losses"][5:]
    assert second[0]["weights"] == pair[0]["weights"]


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(tmp_path: Path) -> None:
    told = train(tmp_path, 2, task="nan", poison=3)
    for rank in told:
        assert len(rank["losses"]) == 3
        assert "loss of step 3" in rank["error"]
    assert told[0]["weights"] == train(tmp_path, 2, task="ok", stop=3)[0]["weights"]


def test_notice_to_one_rank_saves_and_ends_both(tmp_path: Path) -> None:
    told = train(tmp_path, 2, task="leaving", notice=1)
    for rank in told:
        assert len(rank["losses"]) == 2
        assert "its state is saved" in rank["error"]
    assert train(tmp_path, 2, task="leaving", attempt=2, stop=2)[0]["from"] == [2, {"cursor": 1}]


OTHER_RANKS = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from boig_core.errors import BoigError, StoreUnavailableError
from boig_core.storage import store
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, EngineConfig, init_process_group, rank, world_size

def create(stage, frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    model[0].requires_grad_(not frozen)
    return Engine.create(model, EngineConfig(lr=1e-2, steps=6, zero_stage=stage, weight_decay=0.1))

def run(engine, stop):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(6, 8, 6, generator=generator)
    for step in range(engine.steps_done, stop):
        x = inputs[step][rank() :: world_size()]
        engine.step([lambda: (engine(x) - x.sum(-1, keepdim=True)).pow(2).mean()])

CASES = [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)]

def half(task, stage, frozen):
    engine, points = create(stage, frozen), Checkpoints(task, 1, f"{stage}-{frozen}")
    run(engine, 3)
    points.save(engine, 3)
    points.wait()

def rest(task, stage, frozen):
    engine = create(stage, frozen)
    assert Checkpoints(task, 2, f"{stage}-{frozen}").restore(engine).step == engine.steps_done == 3
    run(engine, 6)
    return engine.state_dict()

class Text:
    def save(self, folder):
        (folder / f"text-{rank()}").write_text("text")

def main(folder):
    init_process_group()
    points = Checkpoints(folder + "/failing", 1)
    points.save(Text(), 100)
    points.wait()
    if rank() == 1:
        def away(*args, **kwargs):
            raise StoreUnavailableError("rank 1", "cannot reach the store", "try again")
        send, store.upload_file = store.upload_file, away
    points.save(Text(), 200)
    try:
        points.wait()
        told = "nothing"
    except BoigError as exc:
        told = str(exc)
    if rank() == 1:
        store.upload_file = send
    weights = {}
    for case in CASES:
        weights[case] = rest(folder + "/one", *case)
        half(folder + "/two", *case)
    torch.save((told, points.found(), weights), f"{folder}/told-{rank()}.pt")
    os._exit(0)

if __name__ == "__main__":
    main(sys.argv[1])
"""


def test_two_ranks_go_on_as_one_and_one_as_two_and_a_rank_that_cannot_send_is_told_to_both(tmp_path: Path) -> None:
    script = tmp_path / "other_ranks.py"
    script.write_text(OTHER_RANKS)
    here: dict[str, Any] = runpy.run_path(str(script))
    for case in here["CASES"]:
        here["half"](str(tmp_path / "one"), *case)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [torch.load(tmp_path / f"told-{rank}.pt") for rank in range(2)]

    for case in here["CASES"]:
        undisturbed = here["create"](*case)
        here["run"](undisturbed, 6)
        expected, as_one = undisturbed.state_dict(), here["rest"](str(tmp_path / "two"), *case)
        for name, tensor in expected.items():
            for other in (as_one, told[0][2][case], told[1][2][case]):
                torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6, msg=lambda text, case=case: f"{case}: {text}")

    for error, found, _ in told:
        assert "rank 1: cannot reach the store" in error
        assert [Path(uri).name for uri in found] == ["step-000100"]
