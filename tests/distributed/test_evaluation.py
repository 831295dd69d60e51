"""Evaluation on a real local Ray: images with the same bits as in one process, and a language
model's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.util import ActorPool
from transformers import LlamaConfig, LlamaForCausalLM

from boig_core.cluster import evaluation
from boig_core.cluster.evaluation import (
    SampleActor,
    SampleRequest,
    Source,
    answer_prompts,
    sample_draws,
    started_samplers,
)
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.llm.tokens import build_tokenizer
from boig_core.models import resolve_model
from boig_core.storage import commit, manifest, store

pytestmark = pytest.mark.usefixtures("ray_cluster")

RECIPE = load_recipe(
    "tiny",
    ["evaluation.sampling_steps=2", "ddpo.chunk=4", "ddpo.prompts=2", "ddpo.images_per_prompt=4"],
)
PROMPTS = ["a ball in summer", "a box in winter", "a star in spring"] * 2
SEEDS = [5, 6, 7, 8, 9, 10]


def test_actors_give_the_bits_of_one_process_in_the_order_of_the_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, uri = str(tmp_path / "runs/attempt-1"), str(tmp_path / "models/candidate")
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    done = store.join(attempt, commit.COMMIT)
    manifest.publish_folder(
        Path(resolve_model("package:tiny-sd")), uri, kind="sd", lineage=lineage, commit=done
    )
    commit.commit(attempt, {"sd": uri}, {})
    base = Source("package:tiny-sd", committed=False)
    draws = {
        "base": SampleRequest(base, PROMPTS, 3.0),
        "candidate": SampleRequest(Source(uri, committed=True), PROMPTS, 3.0),
        "unguided": SampleRequest(base, PROMPTS, 1.0),
        "turned": SampleRequest(base, PROMPTS[::-1], 3.0),
    }
    messages: dict[str, tuple[int, int]] = {}
    chunks: list[np.ndarray] = []

    class Counting(ActorPool):
        def get_next(self, *args: Any, **kwargs: Any) -> Any:
            chunks.append(super().get_next(*args, **kwargs))
            return chunks[-1]

    monkeypatch.setattr(evaluation, "ActorPool", Counting)
    with started_samplers(RECIPE) as actors:
        result = sample_draws(
            actors,
            draws,
            SEEDS,
            RECIPE.ddpo.chunk,
            lambda name, images: messages.update({name: (id(images), len(chunks))}),
        )
    assert list(result) == list(draws)
    assert {name: image for name, (image, _) in messages.items()} == {
        name: id(images) for name, images in result.items()
    }
    assert [seen for _, seen in messages.values()] == [2, 4, 6, 8], (
        "a draw is handed over before the next one is waited for"
    )
    assert result["base"].shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(result["base"], result["candidate"])
    alone = SampleActor(RECIPE)
    for name in ("base", "unguided", "turned"):
        for part in (slice(0, 4), slice(4, 6)):
            draw = replace(draws[name], prompts=draws[name].prompts[part])
            np.testing.assert_array_equal(result[name][part], alone.sample(draw, SEEDS[part]))
    # Same prompt, other noise.
    assert np.abs(result["base"][0].astype(int) - result["base"][3]).max() > 0
    assert not np.array_equal(result["base"], result["unguided"])


def test_a_committed_language_model_answers_on_workers_with_and_without_the_grammar(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    prompts = [
        f"acme shows you a {kind} for the day\nanswer: " for kind in ("ball", "ring", "moon")
    ]
    tokenizer = build_tokenizer(prompts * 9, 450)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 500,
    }
    marks = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **marks)).save_pretrained(
        tmp_path / "llm"
    )
    tokenizer.save_pretrained(tmp_path / "llm")
    attempt, uri = str(tmp_path / "runs/attempt-1"), str(tmp_path / "models/boigllm")
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    manifest.publish_folder(
        tmp_path / "llm",
        uri,
        kind="boigllm",
        lineage=lineage,
        commit=store.join(attempt, commit.COMMIT),
    )
    commit.commit(attempt, {"boigllm": uri}, {})
    sampled = load_recipe("tiny", ["llm.samples=8", "llm.max_new_tokens=400"])
    greedy = load_recipe("tiny", ["llm.max_new_tokens=48", "llm.constrained=false"])
    waiting = [answer_prompts(uri, prompts, recipe) for recipe in (sampled, greedy)]
    constrained, free = (wait() for wait in waiting)
    assert (len(constrained.said), constrained.texts) == (3, 24)
    assert 0 < constrained.parse_rate == constrained.parsed / 24
    assert any(description is not None for description in constrained.said)
    assert (free.said, free.texts, free.parse_rate) == ([None] * 3, 3, 0.0)


def test_a_model_that_does_not_open_ends_in_its_own_error() -> None:
    nothing = {"base": SampleRequest(Source("package:nothing", committed=False), PROMPTS[:1], 1.0)}
    with started_samplers(RECIPE) as actors, pytest.raises(InputError, match="no such model"):
        sample_draws(actors, nothing, SEEDS[:1], RECIPE.ddpo.chunk)
