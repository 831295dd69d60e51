from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import Recipe, parse_recipe
from boig_core.errors import InputError, PreemptedError, RecipeError
from boig_core.llm.base import make_model
from boig_core.llm.examples import make_examples
from boig_core.llm.finetune import checked_loss, export, finetune
from boig_core.llm.generate import generate_answers, load_llm, parse_or_none
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import build_tokenizer
from boig_core.storage import store
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import KpiCondition, build_prompt, condition_of
from boig_core.vocabulary import Sample

MakeSamples = Callable[[int], list[Sample]]
Model = tuple[Any, Any]


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
    return parse_recipe({"llm": {**sizes, "max_new_tokens": 64, "checkpoint_every": 3, **llm}})


@pytest.fixture(scope="module")
def learned(make_samples: MakeSamples, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("boigllm")
    export(
        finetune(make_samples(240), small(steps=140, lr=1e-2, checkpoint_every=140), with_kpi=True),
        folder,
    )
    return load_llm(folder)


def test_the_model_learns_what_the_kpi_changes(learned: Model, make_samples: MakeSamples) -> None:
    asked = [s for s in make_samples(240) if s.split == "test"]
    answers = generate_answers(
        *learned, [build_prompt(s, condition_of(s)) for s in asked], max_new_tokens=64, batch=7
    )
    answered = [parse_or_none(answer) for answer in answers]
    right = [
        s.description is not None
        and d is not None
        and d.colors.keys() == s.description.colors.keys()
        for s, d in zip(asked, answered, strict=True)
    ]
    assert np.mean(right) > 0.9


@pytest.mark.slow
def test_shuffled_labels_take_away_what_a_model_knows_more_than_its_twin(
    learned: Model, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(240)
    others = np.random.default_rng(0).permutation(len(samples)).tolist()
    shuffled = [
        replace(s, kpi=samples[i].kpi, bucket=samples[i].bucket)
        for s, i in zip(samples, others, strict=True)
    ]
    models = {}
    for with_kpi in (True, False):
        export(
            finetune(shuffled, small(steps=100, lr=1e-2, checkpoint_every=100), with_kpi=with_kpi),
            tmp_path / str(with_kpi),
        )
        models[with_kpi] = load_llm(tmp_path / str(with_kpi))

    def advantage(model: Model, known: list[Sample]) -> float:
        """Mean log-probability of test answers, over that of the twin, which the labels leave as it
        is."""
        asked = [s for s in known if s.split == "test"]
        answers = [print_answer(s.description) for s in asked if s.description]
        messages = answer_logprobs(
            *model, [build_prompt(s, condition_of(s)) for s in asked], answers
        )
        blind = answer_logprobs(*models[False], [build_prompt(s, None) for s in asked], answers)
        return float(np.mean([a.sum() - b.sum() for a, b in zip(messages, blind, strict=True)]))

    assert advantage(learned, samples) > 1
    assert advantage(models[True], shuffled) < 0.3


def test_contrast_tells_high_images_from_low_ones(
    learned: Model, make_samples: MakeSamples
) -> None:
    asked = [s for s in make_samples(240) if s.split == "test" and s.bucket != "medium"]
    high, low = KpiCondition(920, "high"), KpiCondition(70, "low")
    answers = [print_answer(s.description) for s in asked if s.description]
    scored = [
        answer_logprobs(*learned, [build_prompt(s, kpi) for s in asked], answers)
        for kpi in (high, low)
    ]
    contrast = [liked.sum() - disliked.sum() for liked, disliked in zip(*scored, strict=True)]
    assert all((c > 0) == (s.bucket == "high") for c, s in zip(contrast, asked, strict=True))


def test_scores_are_those_of_one_pair_at_a_time(learned: Model, make_samples: MakeSamples) -> None:
    model, tokenizer = learned
    asked = make_samples(5)
    prompts = [build_prompt(s, None if i == 2 else condition_of(s)) for i, s in enumerate(asked)]
    answers = [print_answer(s.description) for s in asked if s.description]
    scored = answer_logprobs(model, tokenizer, prompts, answers, chunk=4)
    for prompt, answer, row in zip(prompts, answers, scored, strict=True):
        start = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        end = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([start + end])).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(start) - 1 + i, token]) for i, token in enumerate(end)]
        np.testing.assert_allclose(row, expected, atol=1e-4)
    again = answer_logprobs(model, tokenizer, prompts, answers, chunk=4)
    assert all((a == b).all() for a, b in zip(scored, again, strict=True))


def test_answers_do_not_depend_on_the_batch(learned: Model, make_samples: MakeSamples) -> None:
    prompts = [build_prompt(s, condition_of(s)) for s in make_samples(9)]
    assert generate_answers(*learned, prompts, max_new_tokens=64, batch=4) == [
        generate_answers(*learned, [prompt], max_new_tokens=64)[0] for prompt in prompts
    ]


def weights(samples: list[Sample], recipe: Recipe, **kwargs: Any) -> dict[str, torch.Tensor]:
    return finetune(samples, recipe, with_kpi=True, **kwargs).engine.state_dict()


def test_a_seed_gives_the_same_weights_and_micro_batches_change_nothing(
    make_samples: MakeSamples,
) -> None:
    samples = make_samples(120)
    first, second = weights(samples, small()), weights(samples, small())
    assert all(torch.equal(first[name], second[name]) for name in first)
    parts = weights(samples, small(micro_batch=4))
    assert all(torch.allclose(first[name], parts[name], atol=2e-4) for name in first)
    other = weights(samples, small().model_copy(update={"seed": 1}))
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(120)
    whole = weights(samples, small())
    seen: list[int] = []

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    points = Checkpoints(str(tmp_path), 1)
    with pytest.raises(KeyboardInterrupt):
        weights(samples, small(), checkpoints=points, report=stop)
    points.wait()
    resumed = weights(
        samples,
        small(),
        checkpoints=Checkpoints(str(tmp_path), 2),
        report=lambda step, values: seen.append(step),
    )
    assert seen == [4, 5, 6]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_notice_saves_at_the_end_of_the_step(
    make_samples: MakeSamples, tmp_path: Path, terminate: Callable[[], None]
) -> None:
    samples = make_samples(120)
    recipe = small(checkpoint_every=6)
    whole = weights(samples, recipe)

    def notice(step: int, values: dict[str, float]) -> None:
        if step == 3:
            terminate()

    with pytest.raises(PreemptedError):
        weights(samples, recipe, checkpoints=Checkpoints(str(tmp_path), 1), report=notice)
    preemption.SIGNALED.clear()
    seen: list[int] = []
    resumed = weights(
        samples,
        recipe,
        checkpoints=Checkpoints(str(tmp_path), 2),
        report=lambda step, values: seen.append(step),
    )
    assert seen == [5, 6]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_samples_without_descriptions_are_refused(make_samples: MakeSamples) -> None:
    with pytest.raises(InputError, match="run perceive first"):
        finetune([replace(s, description=None) for s in make_samples(30)], small(), with_kpi=True)


def base_of_another_kind(samples: list[Sample], folder: Path) -> str:
    """A small Qwen2 with random weights, saved with a tokenizer of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer([build_prompt(s, condition_of(s)) for s in samples], 512)
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(tokenizer), **sizes, max_position_embeddings=200)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def prompts_and_answers(samples: list[Sample]) -> tuple[list[str], list[str]]:
    return [build_prompt(s, condition_of(s)) for s in samples], [
        print_answer(s.description) for s in samples if s.description
    ]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_lora_on_any_base_is_published_merged(
    stage: int, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(60)
    base = base_of_another_kind(samples, tmp_path / "base")
    recipe = small(base=base, lora_rank=4, lr=1e-2, zero_stage=stage, checkpoint_every=6)
    trained = finetune(samples, recipe, with_kpi=True)
    assert trained.metrics["best_step"] == 6
    assert {name.split(".")[-3] for name in trained.best.weights()} == {"lora_A", "lora_B"}
    export(trained, tmp_path / "model")
    model, tokenizer = load_llm(tmp_path / "model")
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    before, _ = load_llm(base)
    changed = {
        name
        for name, p in model.named_parameters()
        if not torch.equal(p, before.get_parameter(name))
    }
    assert changed == {
        name for name, p in before.named_parameters() if p.dim() == 2 and "layers" in name
    }
    examples = make_examples(tokenizer, samples[:4], recipe, with_kpi=True)[:]
    loss = -sum(
        row.sum() for row in answer_logprobs(model, tokenizer, *prompts_and_answers(samples[:4]))
    )
    engine = trained.engine
    engine.module.eval()
    expected = checked_loss(engine, recipe.llm, tokenizer.pad_token_id, examples)(examples)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert "LoRA of rank 4" in (tmp_path / "model" / "README.md").read_text()


def test_memory_savers_change_nothing(make_samples: MakeSamples) -> None:
    samples = make_samples(60)
    plain = weights(samples, small(packing=False))
    savers: list[dict[str, Any]] = [
        {"gradient_checkpointing": True},
        {"offload": "optimizer"},
        {"offload": "all", "zero_stage": 3, "gradient_checkpointing": True},
    ]
    for saver in savers:
        saved = weights(samples, small(**saver))
        assert all(
            torch.allclose(saved[name], plain[name], atol=2e-4)
            for name in saved.keys() & plain.keys()
        ), saver


def test_training_stops_when_patience_ends_and_the_best_is_published(
    make_samples: MakeSamples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = make_samples(60)
    caplog.set_level("INFO")
    recipe = small(lr=1.0, warmup=0.0, grad_clip=100.0, steps=30, checkpoint_every=1, patience=2)
    trained = finetune(samples, recipe, with_kpi=True, checkpoints=Checkpoints(str(tmp_path), 1))
    best, steps = int(trained.metrics["best_step"]), int(trained.metrics["steps"])
    assert steps == best + 2 < 30
    assert trained.metrics["best_val_loss"] < trained.metrics["last_val_loss"]
    assert "stopped early: 2 validations" in caplog.text
    assert "step 1 of 30 · loss " in caplog.text
    export(trained, tmp_path / "model")
    published, _ = load_llm(tmp_path / "model")
    last, kept = trained.engine.state_dict(), trained.best.weights()
    assert all(
        torch.equal(p, kept[name]) and not torch.equal(p, last[name])
        for name, p in published.named_parameters()
    )
    resumed = finetune(samples, recipe, with_kpi=True, checkpoints=Checkpoints(str(tmp_path), 2))
    assert resumed.metrics == trained.metrics, "a training that has stopped stays stopped"


def test_a_loss_that_never_falls_is_reported(
    make_samples: MakeSamples, caplog: pytest.LogCaptureFixture
) -> None:
    trained = finetune(
        make_samples(60), small(lr=3.0, warmup=0.0, grad_clip=1e6, steps=3), with_kpi=True
    )
    assert trained.metrics["loss_fell"] is False
    assert "the validation loss never fell: " in caplog.text
    assert finetune(make_samples(60), small(), with_kpi=True).metrics["loss_fell"] is True


def test_what_a_base_cannot_do_is_refused(make_samples: MakeSamples, tmp_path: Path) -> None:
    samples = make_samples(30)
    base = base_of_another_kind(samples, tmp_path)
    with pytest.raises(
        RecipeError, match=r"^llm\.context = 300: is more than .* reads: 200 tokens; lower it$"
    ):
        finetune(samples, small(base=base, context=300), with_kpi=True)
    with pytest.raises(InputError, match=r"leads nowhere"):
        finetune(samples, small(base=str(tmp_path / "nowhere")), with_kpi=True)


def test_a_base_is_read_from_a_store(
    make_samples: MakeSamples, tmp_path: Path, s3_bucket: str
) -> None:
    samples = make_samples(30)
    base = base_of_another_kind(samples, tmp_path)
    store.upload_folder(tmp_path, f"{s3_bucket}/bases/qwen")
    fetched, local = (
        make_model(small(base=ref).llm, [], 0)[1] for ref in (f"{s3_bucket}/bases/qwen", base)
    )
    assert all(torch.equal(p, local.get_parameter(name)) for name, p in fetched.named_parameters())
    nowhere = r"^llm\.base = 's3://boig-tests/bases/none': leads nowhere: the store holds"
    with pytest.raises(InputError, match=nowhere):
        make_model(small(base=f"{s3_bucket}/bases/none").llm, [], 0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lr": 5e-3}, "llm.lr was 0.002 and is 0.005"),
        ({"batch": 24}, "llm.batch was 12 and is 24"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"posts": 90}, "data was"),
        ({"with_kpi": False}, "task.with_kpi was true and is false"),
    ],
)
def test_a_training_of_other_work_is_refused_in_its_own_folder_and_told_in_a_later_one(
    make_samples: MakeSamples,
    tmp_path_factory: pytest.TempPathFactory,
    started_task: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    name: str,
) -> None:
    """What trained before cannot decide: neither schedule nor order of the data may change in
    silence."""
    caplog.set_level(logging.INFO)
    llm = {key: value for key, value in change.items() if key in ("lr", "batch")}
    recipe = small(**llm).model_copy(update={"seed": change.get("seed", 0)})
    samples, with_kpi = make_samples(change.get("posts", 120)), change.get("with_kpi", True)
    task = tmp_path_factory.mktemp("other") / "task"
    shutil.copytree(started_task, task)
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*set that back, or train into"):
        finetune(samples, recipe, with_kpi=with_kpi, checkpoints=Checkpoints(str(task), 1))
    steps: list[int] = []
    later = Checkpoints(str(task), 2)
    finetune(
        samples,
        recipe,
        with_kpi=with_kpi,
        checkpoints=later,
        report=lambda step, values: steps.append(step),
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    [_, begins] = [line for line in caplog.messages if line.startswith("training: ")]
    assert begins.startswith("training: trains from the start: 2 checkpoints of attempt 1 passed")
    assert name in begins
    assert later.went_on_from == ()


@pytest.fixture(scope="module")
def started_task(make_samples: MakeSamples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training whose first attempt is there to be gone on from."""
    task = tmp_path_factory.mktemp("started") / "task"
    finetune(make_samples(120), small(), with_kpi=True, checkpoints=Checkpoints(str(task), 1))
    return task
