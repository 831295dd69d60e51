"""Real processes over gloo: two ranks train as one does, resume exactly, go on as one and back, and
stop together."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boig_core.errors import BoigError, PreemptedError, StoreUnavailableError, TrainingDivergedError
from boig_core.storage import store
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, init_process_group
from boig_core.training.engine_config import EngineConfig
from boig_core.training.ranks import rank, world_size
from tests.processes import run_ranks


@dataclass(frozen=True)
class Told:
    """What a rank says of its training.

    Attributes:
        ranks: how many there were.
        restored: the step and state of the checkpoint that it went on from.
        losses: of its steps.
        error: that ended it.
        weights: that it has at the end.
    """

    ranks: int
    restored: tuple[int, dict[str, Any]] | None
    losses: list[float]
    error: str | None
    weights: dict[str, list[Any]]


def training(task: str, attempt: int, stop: int, poison: int, notice: int) -> Told:
    """Ten steps on made-up numbers, a checkpoint after the fifth; on rank 1 a loss that is not
    finite, or notice, at the steps named."""
    preemption.listen()
    torch.manual_seed(1)
    inputs = torch.randn(10, 8, 6)
    targets = inputs.sum(-1, keepdim=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    engine = Engine.create(model, EngineConfig(lr=1e-2, steps=10, zero_stage=2))
    points = Checkpoints(task, attempt)
    restored = points.restore(engine)
    losses, error = list[float](), None
    try:
        for step in range(engine.steps_done, stop):
            x, y = inputs[step][rank() :: world_size()], targets[step][rank() :: world_size()]
            scale = float("nan") if step == poison and rank() == 1 else 1.0
            if step == notice and rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            losses.append(
                engine.step(
                    [lambda x=x, y=y, scale=scale: (engine(x) - y).pow(2).mean() * scale]
                ).loss
            )
            if step == 4 or engine.leaving:
                points.save(engine, step + 1, {"cursor": step})
            if engine.leaving:
                points.leave()
    except (TrainingDivergedError, PreemptedError) as exc:
        error = str(exc)
    points.wait()
    weights = {name: tensor.tolist() for name, tensor in engine.state_dict().items()}
    return Told(world_size(), restored and (restored.step, restored.state), losses, error, weights)


def train(
    folder: Path,
    ranks: int,
    *,
    task: str,
    attempt: int = 1,
    stop: int = 10,
    poison: int = -1,
    notice: int = -1,
) -> list[Told]:
    """What each rank says after a training in processes of its own."""
    return run_ranks(training, ranks, str(folder / task), attempt, stop, poison, notice)


def test_two_ranks_train_as_one_and_resume_exactly(tmp_path: Path) -> None:
    (alone,) = train(tmp_path, 1, task="alone")
    pair = train(tmp_path, 2, task="pair")
    assert pair[0].ranks == 2
    assert pair[0].losses == pytest.approx(alone.losses, rel=1e-4)
    assert pair[0].losses == pair[1].losses
    assert pair[0].weights == pair[1].weights

    first = train(tmp_path, 2, task="cut", stop=7)
    assert first[0].restored is None
    second = train(tmp_path, 2, task="cut", attempt=2)
    assert [messages.restored for messages in second] == [(5, {"cursor": 4})] * 2
    assert second[0].losses == pair[0].losses[5:]
    assert second[0].weights == pair[0].weights


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(tmp_path: Path) -> None:
    messages = train(tmp_path, 2, task="nan", poison=3)
    for item in messages:
        assert len(item.losses) == 3
        assert "loss of step 3" in item.error
    assert messages[0].weights == train(tmp_path, 2, task="ok", stop=3)[0].weights


def test_notice_to_one_rank_saves_and_ends_both(tmp_path: Path) -> None:
    messages = train(tmp_path, 2, task="leaving", notice=1)
    for item in messages:
        assert len(item.losses) == 2
        assert "its state is saved" in item.error
    assert train(tmp_path, 2, task="leaving", attempt=2, stop=2)[0].restored == (2, {"cursor": 1})


CASES = [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)]
"""ZeRO stages, and whether the first layer is frozen."""


def create(stage: Any, frozen: bool) -> Engine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    model[0].requires_grad_(not frozen)
    return Engine.create(model, EngineConfig(lr=1e-2, steps=6, zero_stage=stage, weight_decay=0.1))


def run(engine: Engine, stop: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(6, 8, 6, generator=generator)
    for step in range(engine.steps_done, stop):
        x = inputs[step][rank() :: world_size()]
        norm = norm_by_hand(engine, inputs[step])
        info = engine.step([lambda x=x: (engine(x) - x.sum(-1, keepdim=True)).pow(2).mean()])
        assert info.grad_norm == pytest.approx(norm, rel=1e-4)


def norm_by_hand(engine: Engine, inputs: torch.Tensor) -> float:
    """Of the gradient of all ranks' samples, whoever holds which part of it."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    model.load_state_dict(engine.state_dict())
    trained = [name for name, param in engine.module.named_parameters() if param.requires_grad]
    (model(inputs) - inputs.sum(-1, keepdim=True)).pow(2).mean().backward()
    return float(torch.cat([model.get_parameter(name).grad.flatten() for name in trained]).norm())  # type: ignore[union-attr]


def half(task: str, stage: int, frozen: bool) -> None:
    engine, points = create(stage, frozen), Checkpoints(task, 1, f"{stage}-{frozen}")
    run(engine, 3)
    points.save(engine, 3)
    points.wait()


def rest(task: str, stage: int, frozen: bool) -> dict[str, torch.Tensor]:
    engine = create(stage, frozen)
    restored = Checkpoints(task, 2, f"{stage}-{frozen}").restore(engine)
    assert restored is not None
    assert restored.step == engine.steps_done == 3
    run(engine, 6)
    return engine.state_dict()


class Text:
    def save(self, folder: Path) -> None:
        (folder / f"text-{rank()}").write_text("text")


def other_ranks(folder: str) -> tuple[str, list[str], dict[Any, dict[str, Any]]]:
    """On each of two ranks: what a checkpoint that rank 1 cannot send ends in, what of it is
    found, and the weights of each case that one process began; the other half of the cases is
    begun here."""
    init_process_group()
    points = Checkpoints(folder + "/failing", 1)
    points.save(Text(), 100)
    points.wait()
    send = store.upload_file
    if rank() == 1:

        def away(*args: Any, **kwargs: Any) -> None:
            raise StoreUnavailableError("rank 1", "cannot reach the store", "try again")

        store.upload_file = away
    points.save(Text(), 200)
    try:
        points.wait()
        messages = "nothing"
    except BoigError as exc:
        messages = str(exc)
    store.upload_file = send
    weights = {}
    for case in CASES:
        # as numbers: a tensor that is sent to another process lives as long as its sender
        weights[case] = {
            name: tensor.tolist() for name, tensor in rest(folder + "/one", *case).items()
        }
        half(folder + "/two", *case)
    return messages, points.found(), weights


def one_rank(folder: str, begin: bool) -> dict[Any, tuple[dict[str, Any], dict[str, Any]]]:
    """In one process: begin each case, or end it as it was begun by two ranks, beside a run that
    nothing disturbed."""
    ended = {}
    for case in CASES:
        if begin:
            half(folder + "/one", *case)
            continue
        undisturbed = create(*case)
        run(undisturbed, 6)
        both = undisturbed.state_dict(), rest(folder + "/two", *case)
        ended[case] = tuple(
            {name: tensor.tolist() for name, tensor in state.items()} for state in both
        )
    return ended  # type: ignore[return-value]


def test_two_ranks_go_on_as_one_and_one_as_two_and_a_rank_that_cannot_send_is_told_to_both(
    tmp_path: Path,
) -> None:
    run_ranks(one_rank, 1, str(tmp_path), True)
    messages = run_ranks(other_ranks, 2, str(tmp_path))
    [ended] = run_ranks(one_rank, 1, str(tmp_path), False)
    for case, (expected, as_one) in ended.items():
        for other in (as_one, messages[0][2][case], messages[1][2][case]):
            assert other.keys() == expected.keys()
            for name, numbers in expected.items():
                np.testing.assert_allclose(
                    other[name], numbers, rtol=0, atol=1e-6, err_msg=f"{case}: {name}"
                )
    assert len(ended) == len(CASES)

    for error, result, _ in messages:
        assert "rank 1: cannot reach the store" in error
        assert [Path(uri).name for uri in result] == ["step-000100"]
