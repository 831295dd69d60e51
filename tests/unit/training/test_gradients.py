"""The gradient norm of a step under every ZeRO stage, and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boig_core.errors import TrainingDivergedError
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig

CONFIG = EngineConfig(lr=1e-2, steps=6, grad_clip=0.01)
"""A gradient far above the clip: the norm after clipping is another number."""
INPUTS = torch.randn(6, 8, 6, generator=torch.Generator().manual_seed(1))
STAGES = [
    (stage, dtype, offload)
    for stage in (0, 1, 2, 3)
    for dtype in ("float32", "bfloat16")
    for offload in (("none",) if stage == 0 else ("none", "optimizer"))
] + [(3, "float32", "all")]
every_stage = pytest.mark.parametrize(("stage", "dtype", "offload"), STAGES)


class Spoil(torch.autograd.Function):
    """Zero, with a gradient of nothing but ``value``: a loss may be finite where its gradient is
    not, as that of a square root at 0."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, value: float) -> Tensor:
        ctx.save_for_backward(parameter)
        ctx.value = value
        return parameter.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(ctx.saved_tensors[0], ctx.value), None


class Layer(nn.Linear):
    """A linear layer whose parameters get other gradients, by name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.spoilt: dict[str, float] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        # Here, since under ZeRO 3 a parameter is empty outside of its layer.
        outputs = super().forward(inputs)
        for name, value in self.spoilt.items():
            outputs = outputs + Spoil.apply(getattr(self, name), value)
        return outputs


def make_model(dtype: str = "float32") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Layer(6, 16), nn.Tanh(), Layer(16, 16), Layer(16, 1))
    model[0].requires_grad_(False)
    return model.to(getattr(torch, dtype))


def make_engine(stage: Any, dtype: Any, offload: Any) -> Engine:
    config = replace(CONFIG, zero_stage=stage, dtype=dtype, offload=offload)
    return Engine.create(make_model(dtype), config)


def loss_of(model: Callable[[Tensor], Tensor], inputs: Tensor, dtype: str) -> Tensor:
    outputs = model(inputs.to(getattr(torch, dtype)))
    return (outputs.float() - inputs.sum(-1, keepdim=True)).pow(2).mean()


@every_stage
def test_the_norm_is_that_of_the_whole_step_before_clipping(
    stage: int, dtype: str, offload: str
) -> None:
    engine, twin = make_engine(stage, dtype, offload), make_model(dtype)
    for step in range(3):
        twin.load_state_dict(engine.state_dict())
        twin.zero_grad()
        halves = INPUTS[step].chunk(2)
        for half in halves:
            (loss_of(twin, half, dtype) / 2).backward()
        trained = [p.grad.float().flatten() for p in twin.parameters() if p.grad is not None]
        expected = float(torch.cat(trained).norm())
        info = engine.step([lambda x=half: loss_of(engine, x, dtype) / 2 for half in halves])  # type: ignore[misc]
        assert expected > 10 * CONFIG.grad_clip
        assert info.grad_norm == pytest.approx(expected, rel=1e-4 if dtype == "float32" else 2e-2)


@every_stage
@pytest.mark.parametrize(("name", "value"), [("2.bias", math.nan), ("3.weight", -math.inf)])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(
    stage: int, dtype: str, offload: str, name: str, value: float
) -> None:
    engine = make_engine(stage, dtype, offload)
    engine.step([lambda: loss_of(engine, INPUTS[0], dtype)])
    before = engine.state_dict()

    layer, parameter = name.split(".")

    def spoilt() -> Tensor:
        engine.module.get_submodule(layer).spoilt = {parameter: value}
        return loss_of(engine, INPUTS[1], dtype)

    with pytest.raises(
        TrainingDivergedError, match=rf"step 1: the gradient of {name} is not finite; lower"
    ):
        engine.step([lambda: loss_of(engine, INPUTS[1], dtype), spoilt])
    assert engine.steps_done == 1
    after = engine.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_the_first_of_several_is_named_and_the_others_are_counted() -> None:
    engine = make_engine(0, "float32", "none")
    for layer in ("2", "3"):
        engine.module.get_submodule(layer).spoilt = dict.fromkeys(("weight", "bias"), math.nan)
    with pytest.raises(
        TrainingDivergedError, match=r"of 2\.weight is not finite, nor are those of 3 more"
    ):
        engine.step([lambda: loss_of(engine, INPUTS[0], "float32")])


@pytest.mark.parametrize("stage", [0, 2])  # 3 sums squares in float64, where nothing overflows
def test_finite_gradients_whose_norm_overflows_stop_it_too(stage: int) -> None:
    engine = make_engine(stage, "float32", "none")
    before = engine.state_dict()

    engine.module.get_submodule("2").spoilt = {"weight": 3e38}
    with pytest.raises(TrainingDivergedError, match="step 0: the gradient norm overflows"):
        engine.step([lambda: loss_of(engine, INPUTS[0], "float32")])
    after = engine.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
