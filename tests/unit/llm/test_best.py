"""What validation decides: the best weights, when to stop, and whether the loss fell at all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from boig_core.llm.best import FinetuneState, History
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig


def make_best() -> FinetuneState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    return FinetuneState(Engine.create(model, EngineConfig(lr=0.1, steps=9)))


def step(best: FinetuneState) -> dict[str, torch.Tensor]:
    engine = best._engine
    engine.step([lambda: engine(torch.ones(2, 3)).pow(2).sum()])
    return engine.state_dict(trained_only=True)


def test_the_weights_of_the_lowest_validation_are_kept_through_a_checkpoint(tmp_path: Path) -> None:
    best = make_best()
    assert best.weights() == {}
    best.judge(0, 1.0)
    assert best.weights() == {}, "the untrained model is no candidate"
    for number, loss in enumerate((2.0, 0.5, 0.7, float("nan")), start=1):
        weights = step(best)
        if number == 2:
            lowest = weights
        best.judge(number, loss)
    assert best.history == History(first=1.0, last=0.7, best=0.5, best_step=2, since=1)
    points = Checkpoints(str(tmp_path), 1)
    points.save(best, 4, best.state())
    points.wait()

    later = make_best()
    restored = Checkpoints(str(tmp_path), 2).restore(later)
    assert restored is not None
    later.resume(restored.state)
    assert later.history == best.history
    for result in (best.weights(), later.weights()):
        assert result.keys() == {"1.weight", "1.bias"}
        assert all(torch.equal(result[name], lowest[name]) for name in result)
    later.judge(5, 0.4)
    assert not torch.equal(later.weights()["1.weight"], lowest["1.weight"])


def test_whether_the_loss_fell() -> None:
    assert History().fell is None
    assert History(first=1.0).fell is None
    assert History(first=1.0, best=1.0).fell is False
    assert History(first=1.0, best=0.9).fell is True
