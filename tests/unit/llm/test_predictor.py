"""The engagement predictor: its loss, what it learns, and that what is published says the same."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from boig_core.config import Recipe, parse_recipe
from boig_core.errors import InputError, ScorerError
from boig_core.llm.__main__ import main
from boig_core.llm.finetune import export
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.packing import Layout
from boig_core.llm.predictor import Predictor, judge_samples, load_predictor, train_predictor
from boig_core.llm.regression import HEAD, MSE_WEIGHT, RatedLoss, add_head
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import Example
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig
from boig_core.verbalization.answer import print_prediction
from boig_core.verbalization.templates import build_predictor_prompt
from boig_core.vocabulary import Description, Sample

MakeSamples = Callable[[int], list[Sample]]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
rng = np.random.default_rng(8)
EXAMPLES = [
    Example(ids[:split], ids[split:], rating=float(rating))
    for ids, split, rating in zip((rng.integers(3, 90, 9 + 5 * i % 11).astype(np.int32) for i in range(12)), [3, 5, 7] * 4, rng.random(12),
                                  strict=False)
]  # fmt: skip


def rated(sample: Sample) -> float:
    """A law of the image alone: the share of its first color decides."""
    assert sample.description is not None
    return {"high": 85.0, "medium": 50.0, "low": 15.0}[str(sample.bucket)] + 100 * (
        max(sample.description.colors.values()) - 0.65
    )


@pytest.fixture(scope="module")
def posts(make_samples: MakeSamples) -> list[Sample]:
    return [replace(sample, kpi_normalized=rated(sample)) for sample in make_samples(240)]


def small(**llm: Any) -> Recipe:
    sizes = {
        "hidden": 48,
        "layers": 2,
        "heads": 2,
        "vocab_size": 512,
        "context": 160,
        "batch": 12,
        "micro_batch": 6,
        "steps": 6,
    }
    return parse_recipe(
        {"llm": {**sizes, "max_new_tokens": 64, "checkpoint_every": 3, "predictor": "head", **llm}}
    )


def held_out(samples: list[Sample]) -> tuple[list[Sample], list[Description]]:
    test = [sample for sample in samples if sample.split == "test"]
    return test, [sample.description for sample in test if sample.description is not None]


def make_loss(room: float, micro: int, stage: Any = 2) -> tuple[RatedLoss, Engine]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=90, **SIZES))
    torch.nn.init.normal_(add_head(model).weight)
    engine = Engine.create(model.train(), EngineConfig(lr=1e-2, steps=6, zero_stage=stage))
    return RatedLoss(engine, Layout(0, room, 9999), micro), engine


def test_the_loss_is_the_cross_entropy_and_a_tenth_of_the_squared_error() -> None:
    loss, engine = make_loss(64, 12)
    model: Any = engine.module
    nats, tokens, squared = 0.0, 0, 0.0
    for example in EXAMPLES:
        ids = torch.from_numpy(np.concatenate([example.prompt_T, example.answer_T])).long()
        with torch.no_grad():
            hidden_TH = model.model(ids[None]).last_hidden_state[0]
        at = len(example.prompt_T) - 1
        nats += float(
            cross_entropy(model.lm_head(hidden_TH)[at:-1], ids[at + 1 :], reduction="sum")
        )
        tokens += len(example.answer_T)
        squared += (
            float(hidden_TH[at] @ model.get_submodule(HEAD).weight[0]) / math.sqrt(32)
            + 0.5
            - float(example.rating or 0)
        ) ** 2
    assert MSE_WEIGHT == 0.1
    assert loss.validation(EXAMPLES) == pytest.approx(
        nats / tokens + 0.1 * 1e4 * squared / len(EXAMPLES), rel=1e-5
    )


@pytest.mark.parametrize("stage", [1, 3])
def test_packing_micro_batches_and_zero_change_nothing(stage: int) -> None:
    assert len(Layout(0, 64, 9999)(EXAMPLES).ids_BT) < 12, "rows do hold several"
    curves = []
    for zero, room, micro in ((2, 0, 12), (stage, 64, 12), (stage, math.inf, 5)):
        loss, engine = make_loss(room, micro, zero)
        curves.append([engine.step(loss.of_step(EXAMPLES)).loss for _ in range(5)])
    assert curves[0][-1] < curves[0][0]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps", "lr"), [("head", 100, 5e-3), ("text", 400, 3e-3)])
def test_it_learns_what_the_image_says_and_is_published_with_it(
    method: str, steps: int, lr: float, posts: list[Sample], tmp_path: Path
) -> None:
    if method == "text":  # digits are learned later than a head: a law of three numbers
        posts = [
            replace(
                sample,
                kpi_normalized={"high": 85.0, "medium": 50.0, "low": 15.0}[str(sample.bucket)],
            )
            for sample in posts
        ]
    trained = train_predictor(
        posts, small(predictor=method, steps=steps, lr=1.0, predictor_lr=lr, checkpoint_every=steps)
    )
    export(trained, tmp_path)
    predictor = load_predictor(tmp_path)
    test, seen = held_out(posts)
    said_N = predictor.predict(test, seen)
    truth_N = np.array([sample.kpi_normalized for sample in test])
    assert said_N.shape == (len(test),)
    assert np.sqrt(np.mean((said_N - truth_N) ** 2)) < 15, "a constant is off by 29"
    assert np.corrcoef(said_N, truth_N)[0, 1] > 0.95
    other = predictor.predict(test, seen[1:] + seen[:1])
    assert np.corrcoef(other, np.roll(truth_N, -1))[0, 1] > 0.9, "the image decides, not the post"
    assert np.array_equal(predictor.predict(test, seen), said_N)
    np.testing.assert_allclose(
        [predictor.predict([s], [d])[0] for s, d in zip(test, seen, strict=True)][:5],
        said_N[:5],
        atol=1e-2,
    )
    assert (tmp_path / "head.safetensors").exists() == (method == "head")
    assert "Engagement predictor" in (tmp_path / "README.md").read_text()
    LlamaForCausalLM.from_pretrained(tmp_path)


def test_packed_posts_train_the_same_weights(posts: list[Sample]) -> None:
    packed, unpacked = (
        train_predictor(posts, small(steps=2, packing=flag)).engine.state_dict()
        for flag in (True, False)
    )
    assert f"{HEAD}.weight" in packed
    assert all(torch.allclose(packed[name], unpacked[name], atol=2e-4) for name in packed)


def test_the_text_answer_is_the_mean_of_all_numbers(posts: list[Sample], tmp_path: Path) -> None:
    export(train_predictor(posts, small(predictor="text", steps=2)), tmp_path)
    predictor = load_predictor(tmp_path)
    test, seen = held_out(posts)
    prompt = build_predictor_prompt(test[0], seen[0])
    result = answer_logprobs(
        predictor.model,
        predictor.tokenizer,
        [prompt] * 101,
        [print_prediction(n) for n in range(101)],
    )
    share_K = np.exp([row.sum() for row in result])
    expected = float(share_K @ np.arange(101) / share_K.sum())
    assert predictor.predict(test[:1], seen[:1])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_lora_is_merged_and_the_head_stands_beside(
    stage: int, posts: list[Sample], tmp_path: Path
) -> None:
    recipe = small(lora_rank=4, lr=1e-2, zero_stage=stage, checkpoint_every=6)
    trained = train_predictor(posts, recipe)
    kept = trained.best.weights()
    assert {name.split(".")[-3] for name in kept if HEAD not in name} == {"lora_A", "lora_B"}
    export(trained, tmp_path)
    predictor = load_predictor(tmp_path)
    head = predictor.model.get_submodule(HEAD)
    assert torch.equal(head.weight, kept[f"{HEAD}.weight"])
    assert not torch.equal(head.weight, torch.zeros_like(head.weight))
    test, seen = held_out(posts)
    engine = trained.engine
    examples = trained.task.examples(trained.tokenizer, test)
    expected = RatedLoss(engine, Layout(trained.tokenizer.pad_token_id), 100).validation(examples)
    nats = AnswerLoss(engine, Layout(trained.tokenizer.pad_token_id), 100).validation(examples)
    ratings = np.array([sample.kpi_normalized for sample in test])
    mse = float(np.mean((predictor.predict(test, seen) - ratings) ** 2))
    assert expected - nats == pytest.approx(0.1 * mse, rel=1e-3)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    posts: list[Sample], tmp_path: Path
) -> None:
    whole = train_predictor(posts, small())

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    points = Checkpoints(str(tmp_path), 1)
    with pytest.raises(KeyboardInterrupt):
        train_predictor(posts, small(), checkpoints=points, report=stop)
    points.wait()
    resumed = train_predictor(posts, small(), checkpoints=Checkpoints(str(tmp_path), 2))
    state = whole.engine.state_dict()
    assert all(
        torch.equal(state[name], tensor) for name, tensor in resumed.engine.state_dict().items()
    )
    assert resumed.metrics == whole.metrics


def test_a_judge_learns_and_validates_on_its_own_split(posts: list[Sample]) -> None:
    mixed = [
        replace(sample, split="judge") if index % 2 else sample
        for index, sample in enumerate(posts)
    ]
    own = judge_samples(mixed)
    assert [sample.id for sample in own] == [
        sample.id for sample in mixed if sample.split == "judge"
    ]
    validating = [sample for sample in own if sample.split == "validation"]
    assert {sample.split for sample in own} == {"train", "validation"}
    assert 0.04 < len(validating) / len(own) < 0.25
    twins = [replace(sample, group="alike") for sample in own[:20]]
    assert (
        len(
            {
                sample.split
                for sample in judge_samples([replace(twin, split="judge") for twin in twins])
            }
        )
        == 1
    )
    assert judge_samples(posts) == []


def test_a_folder_that_is_no_predictor_is_refused(posts: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"^engagement predictor .*: holds no valid predictor\.json; give the folder of a published predictor$",
    ):
        load_predictor(tmp_path / "nowhere")
    export(train_predictor(posts, small(steps=1)), tmp_path / "p")
    for spoil in (lambda path: path.write_bytes(b"torn"), lambda path: path.unlink()):
        spoil(tmp_path / "p" / "head.safetensors")
        with pytest.raises(InputError, match=r"holds no head\.safetensors that fits its model"):
            load_predictor(tmp_path / "p")
    about = json.loads((tmp_path / "p" / "predictor.json").read_text())
    (tmp_path / "p" / "predictor.json").write_text(json.dumps({**about, "method": "guess"}))
    with pytest.raises(InputError, match=r"holds no valid predictor\.json"):
        load_predictor(tmp_path / "p")


def test_torchrun_refuses_to_train_a_predictor_that_the_recipe_does_not_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["llm", "tiny", str(tmp_path), str(tmp_path / "out"), "--predictor"]
    )
    assert main() == 2
    assert (
        capsys.readouterr().err
        == "--predictor: needs a recipe that trains one; add --set llm.predictor=head or text\n"
    )


def test_a_prediction_that_is_not_finite_is_refused(posts: list[Sample], tmp_path: Path) -> None:
    export(train_predictor(posts, small(steps=1)), tmp_path)
    predictor: Predictor = load_predictor(tmp_path)
    predictor.model.get_submodule(HEAD).bias.data.fill_(float("nan"))
    with pytest.raises(ScorerError, match="prediction nan: must be finite"):
        predictor.predict(posts[:1], [posts[0].description or Description()])
