from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from boig_core.errors import RecipeError, TrainingDivergedError
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig

torch.manual_seed(1)
INPUTS = torch.randn(12, 8, 6)
TARGETS = INPUTS.sum(-1, keepdim=True)
CONFIG = EngineConfig(lr=1e-2, steps=12)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def losses(engine: Engine, step: int, micro: int = 1) -> list[Callable[[], Tensor]]:
    parts = zip(INPUTS[step].chunk(micro), TARGETS[step].chunk(micro), strict=True)
    return [lambda x=x, y=y: (engine(x) - y).pow(2).mean() / micro for x, y in parts]  # type: ignore[misc]


def run(engine: Engine, steps: int = 12, micro: int = 1) -> list[float]:
    return [
        engine.step(losses(engine, step, micro)).loss for step in range(engine.steps_done, steps)
    ]


def by_hand() -> tuple[list[float], dict[str, Tensor]]:
    """The same training in plain PyTorch."""
    model, seen = make_model(), []
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=CONFIG.lr, betas=CONFIG.betas, weight_decay=0.0
    )
    for step in range(12):
        optimizer.param_groups[0]["lr"] = CONFIG.lr_at(step)
        optimizer.zero_grad()
        loss = (model(INPUTS[step]) - TARGETS[step]).pow(2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.grad_clip)
        optimizer.step()
        seen.append(float(loss))
    return seen, model.state_dict()


@pytest.mark.parametrize(("stage", "micro"), [(0, 1), (1, 2), (2, 1), (2, 4), (3, 2)])
def test_every_zero_stage_trains_as_plain_pytorch_does(stage: int, micro: int) -> None:
    expected, weights = by_hand()
    engine = Engine.create(make_model(), EngineConfig(lr=1e-2, steps=12, zero_stage=stage))  # type: ignore[arg-type]
    assert run(engine, micro=micro) == pytest.approx(expected, rel=1e-4)
    for name, tensor in engine.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_keeps_float32_masters_under_every_zero_stage(stage: int) -> None:
    config = EngineConfig(lr=1e-2, steps=12, zero_stage=stage, dtype="bfloat16")  # type: ignore[arg-type]
    model, expected = make_model().bfloat16(), []
    masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, betas=config.betas, weight_decay=0.0)
    inputs, targets = INPUTS.bfloat16(), TARGETS.bfloat16()
    for step in range(12):
        model.zero_grad()
        loss = (model(inputs[step]) - targets[step]).float().pow(2).mean()
        loss.backward()
        for master, weight in zip(masters, model.parameters(), strict=True):
            assert weight.grad is not None
            master.grad = weight.grad.float()
        nn.utils.clip_grad_norm_(masters, config.grad_clip)
        optimizer.param_groups[0]["lr"] = config.lr_at(step)
        optimizer.step()
        for master, weight in zip(masters, model.parameters(), strict=True):
            weight.data.copy_(master.data)
        expected.append(float(loss.detach()))
    engine = Engine.create(make_model().bfloat16(), config)
    result = [
        engine.step([lambda x=x, y=y: (engine(x) - y).float().pow(2).mean()]).loss
        for x, y in zip(inputs, targets, strict=True)
    ]  # type: ignore[misc]
    assert result == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_what_rests_on_the_host_trains_alike(offload: str) -> None:
    expected, _ = by_hand()
    engine = Engine.create(
        make_model(), EngineConfig(lr=1e-2, steps=12, zero_stage=3, offload=offload)
    )  # type: ignore[arg-type]
    assert run(engine, micro=2) == pytest.approx(expected, rel=1e-4)
    assert engine.settings["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert ("offload_param" in engine.settings["zero_optimization"]) == (offload == "all")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_loaded_engine_goes_on_bit_for_bit(stage: int, tmp_path: Path) -> None:
    config = EngineConfig(lr=1e-2, steps=12, zero_stage=stage)  # type: ignore[arg-type]
    whole = run(Engine.create(make_model(), config))
    half = Engine.create(make_model(), config)
    run(half, 5)
    half.save(tmp_path)
    noise = torch.rand(3)
    later = Engine.create(make_model(), config)
    later.load(tmp_path)
    assert torch.equal(torch.rand(3), noise), "the random state comes back too"
    assert later.steps_done == 5
    assert run(later) == whole[5:]


def test_frozen_weights_stay_and_need_not_be_saved(tmp_path: Path) -> None:
    def adapter() -> Engine:
        model = make_model()
        model[0].requires_grad_(False)  # type: ignore[index]
        return Engine.create(model, CONFIG)

    whole = adapter()
    run(whole)
    assert torch.equal(whole.state_dict()["0.weight"], make_model().state_dict()["0.weight"])
    assert set(whole.state_dict(trained_only=True)) == {"2.weight", "2.bias"}
    half = adapter()
    run(half, 5)
    half.save(tmp_path)
    later = adapter()
    later.load(tmp_path)
    run(later)
    assert all(
        torch.equal(later.state_dict()[name], tensor) for name, tensor in whole.state_dict().items()
    )


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    engine = Engine.create(make_model(), CONFIG)
    before = engine.state_dict()
    with pytest.raises(TrainingDivergedError, match="loss of step 0"):
        engine.step([lambda: engine(INPUTS[0]).sum() * float("nan")])
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.state_dict().items())


@pytest.mark.parametrize(("saved", "loaded"), [(1, 3), (3, 2)])
def test_a_checkpoint_goes_on_under_another_zero_stage_to_rounding(
    saved: int, loaded: int, tmp_path: Path
) -> None:
    def create(stage: int) -> Engine:
        model = make_model()
        model.register_buffer("seen", torch.zeros(1))
        return Engine.create(
            model, EngineConfig(lr=1e-2, steps=12, weight_decay=0.1, zero_stage=stage)
        )  # type: ignore[arg-type]

    whole = create(saved)
    run(whole, 5)
    whole.module.get_buffer("seen").fill_(5.0)
    whole.save(tmp_path)
    run(whole)
    later = create(loaded)
    later.load(tmp_path)
    assert later.steps_done == 5
    noise = torch.rand(3)
    run(later)
    for name, tensor in later.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=1e-6)
    again = create(loaded)
    again.load(tmp_path)
    assert torch.equal(torch.rand(3), noise), "seeded by step and rank"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("none", 2), ("optimizer", 2)),
        (("none", 3), ("all", 3)),
        (("all", 3), ("none", 2)),
    ],
)
def test_a_checkpoint_goes_on_where_more_or_less_rests_on_the_host(
    before: tuple[str, int], after: tuple[str, int], tmp_path: Path
) -> None:
    def create(offload: str, stage: int) -> Engine:
        config = EngineConfig(lr=1e-2, steps=12, zero_stage=stage, offload=offload)  # type: ignore[arg-type]
        return Engine.create(make_model(), config)

    whole = run(create(*before))
    half = create(*before)
    run(half, 5)
    half.save(tmp_path)
    later = create(*after)
    later.load(tmp_path)
    assert run(later) == pytest.approx(whole[5:], rel=1e-4)


def test_a_checkpoint_without_zero_is_refused_with_zero_and_so_is_an_empty_folder(
    tmp_path: Path,
) -> None:
    Engine.create(make_model(), EngineConfig(lr=1e-2, steps=12, zero_stage=0)).save(
        tmp_path / "plain"
    )
    engine = Engine.create(make_model(), CONFIG)
    with pytest.raises(RecipeError, match="zero_stage: 2: the checkpoint was written with 0"):
        engine.load(tmp_path / "plain")
    with pytest.raises(RecipeError, match="holds no engine state"):
        engine.load(tmp_path)


def test_the_learning_rate_rises_then_falls_to_a_tenth() -> None:
    config = EngineConfig(lr=1.0, steps=100, warmup=0.1)
    rates = [config.lr_at(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-2)
    assert {
        EngineConfig(lr=1.0, steps=9, warmup=0.0, schedule="constant").lr_at(step)
        for step in range(9)
    } == {1.0}
