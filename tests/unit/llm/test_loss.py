"""The loss: the same by way of logits and by way of the output head, packed and not, and its
gradient too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, LlamaConfig, PhiConfig

from boig_core.errors import TrainingDivergedError
from boig_core.llm import loss as losses
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.packing import Layout
from boig_core.llm.tokens import Example
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig

VOCAB = 400
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
rng = np.random.default_rng(5)
WORDS = [rng.integers(3, VOCAB, 8 + 7 * i % 23).astype(np.int32) for i in range(16)]
EXAMPLES = [
    Example(ids[:split], ids[split:]) for ids, split in zip(WORDS, [3, 5, 4, 6] * 4, strict=True)
]


def make_loss(
    config: Any, stage: int = 2, dtype: Any = "float32", room: float = 64, micro: int = 8
) -> tuple[AnswerLoss, Engine]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    engine = Engine.create(
        model.train(), EngineConfig(lr=1e-3, steps=5, zero_stage=stage, dtype=dtype)
    )  # type: ignore[arg-type]
    loss = AnswerLoss(engine, Layout(0, room, 9999), micro)
    loss.check(EXAMPLES[:2])
    return loss, engine


class Bare:
    """A model with an engine's calls, whose gradients lie open."""

    def __init__(self, model: Any) -> None:
        self.module, self.device = model, torch.device("cpu")

    def __call__(self, **kwargs: Any) -> Any:
        return self.module(**kwargs)


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES, tie_word_embeddings=True), PhiConfig(**SIZES)],
    ids=["tied", "with a bias"],
)
def test_the_head_gives_the_loss_that_logits_give_and_the_same_gradient(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    engine: Any = Bare(AutoModelForCausalLM.from_config(config).eval())
    loss = AnswerLoss(engine, Layout(0, 64, 9999), 8)
    monkeypatch.setattr(losses, "_WIDE", 30 * VOCAB)
    rows = Layout(0, 64, 9999)(EXAMPLES)
    values, gradients = [], []
    for way in (loss.plain, loss.chunked):
        engine.module.zero_grad()
        value = way(rows)
        value.backward()
        values.append(float(value))
        gradients.append([p.grad.clone() for p in engine.module.parameters()])
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    for item, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, item, rtol=1e-4, atol=1e-6 * float(item.abs().max()))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_both_ways_train_alike_under_every_zero_stage(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = []
    for wide in (2**40, 10 * VOCAB):
        monkeypatch.setattr(losses, "_WIDE", wide)
        loss, engine = make_loss(LlamaConfig(**SIZES), stage=stage)
        assert loss._fuses
        curves.append([engine.step(loss.of_step(EXAMPLES)).loss for _ in range(5)])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_bfloat16_losses_are_summed_in_float32() -> None:
    loss, _ = make_loss(LlamaConfig(**SIZES), dtype="bfloat16")
    rows = Layout(0, 64, 9999)(EXAMPLES)
    assert float(loss.chunked(rows)) == pytest.approx(float(loss.plain(rows)), rel=1e-3)


def test_a_model_that_caps_its_logits_keeps_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_WIDE", 0)
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=30.0)
    loss, engine = make_loss(config)
    assert not loss._fuses
    expected = sum(
        float(
            cross_entropy(
                engine(input_ids=ids[None]).logits[0, len(e.prompt_T) - 1 : -1],
                ids[len(e.prompt_T) :],
                reduction="sum",
            )
        )
        for e, ids in (
            (e, torch.from_numpy(np.concatenate([e.prompt_T, e.answer_T])).long()) for e in EXAMPLES
        )
    )
    assert float(loss(EXAMPLES)) == pytest.approx(expected, rel=1e-5)


def test_packing_and_micro_batches_change_nothing() -> None:
    assert len(Layout(0, 64, 9999)(EXAMPLES).ids_BT) < 9, "rows do hold several"
    curves = []
    for room, micro in ((0, 16), (64, 16), (64, 5), (math.inf, 8)):
        loss, engine = make_loss(
            GPTNeoXConfig(**SIZES, max_position_embeddings=512, hidden_dropout=0.0),
            room=room,
            micro=micro,
        )
        curves.append([engine.step(loss.of_step(EXAMPLES)).loss for _ in range(4)])
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


def test_validation_is_the_loss_a_token_without_dropout() -> None:
    torch.manual_seed(0)
    loss, engine = make_loss(GPTNeoXConfig(**SIZES, hidden_dropout=0.5))
    once, again = loss.validation(EXAMPLES), loss.validation(EXAMPLES)
    assert once == again
    assert engine.module.training
    assert np.isnan(loss.validation([]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_that_is_not_finite_stops_the_training(value: float) -> None:
    config = LlamaConfig(**SIZES)
    loss, engine = make_loss(config)
    assert math.isnan(loss.validation([])), "without samples there is none"
    # As after a step whose gradient was finite and whose rate was not sensible.
    engine.module.get_parameter("model.norm.weight").data.fill_(value)
    with pytest.raises(TrainingDivergedError, match="validation loss after 0 steps: is nan; take"):
        loss.validation(EXAMPLES)
