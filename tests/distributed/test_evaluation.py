"""Sampling and answering for evaluation on a real local Ray: the same as in one process, from packaged and from committed models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from boig_core.cluster import evaluation
from boig_core.cluster.evaluation import SampleActor, Source, answer_prompts, sample_models
from boig_core.cluster.session import connect
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.llm.finetune import export, finetune
from boig_core.models import resolve_model
from boig_core.storage import commit, manifest, store
from boig_core.verbalization.templates import build_prompt
from boig_core.vocabulary import BUCKETS, Description, Sample

RECIPE = load_recipe("tiny", ["evaluation.sampling_steps=2", "ddpo.chunk=4", "ddpo.prompts=2", "ddpo.images_per_prompt=4"])
PROMPTS = ["a ball in summer", "a box in winter", "a star in spring"] * 2
SEEDS = [5, 6, 7, 8, 9, 10]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.pop("RAY_ADDRESS", None)
    connect(cpus=2)
    yield
    ray.shutdown()


def publish(folder: Path, kind: str, root: Path) -> str:
    attempt, uri = str(root / "runs/attempt-1"), str(root / "models/candidate")
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    manifest.publish_folder(folder, uri, kind=kind, lineage=lineage, commit=store.join(attempt, commit.COMMIT))
    commit.commit(attempt, {kind: uri}, {})
    return uri


def test_actors_give_the_bits_of_one_process_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    uri = publish(Path(resolve_model("package:tiny-sd")), "sd", tmp_path)
    base = Source("package:tiny-sd", committed=False)
    found = sample_models({"base": base, "candidate": Source(uri, committed=True)}, PROMPTS, SEEDS, RECIPE)
    assert list(found) == ["base", "candidate"]
    assert found["base"].shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(found["base"], found["candidate"])
    alone = SampleActor(RECIPE)
    np.testing.assert_array_equal(found["base"][:4], alone.sample(base, PROMPTS[:4], SEEDS[:4]))
    np.testing.assert_array_equal(found["base"][4:], alone.sample(base, PROMPTS[4:], SEEDS[4:]))
    assert np.abs(found["base"][0].astype(int) - found["base"][3]).max() > 0  # same prompt, other noise


def test_a_model_that_does_not_open_ends_in_its_own_error() -> None:
    with pytest.raises(InputError, match="no such model"):
        sample_models({"base": Source("package:nothing", committed=False)}, PROMPTS[:1], SEEDS[:1], RECIPE)


def test_prompts_are_answered_in_their_order_as_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = {"ball": "Red", "box": "Blue", "star": "Green", "moon": "White"}
    samples = [
        Sample(f"{i}", f"{i}", "a", "c", "2020-01-01", f"a {kind}", (), 50, 50, BUCKETS[i % 3], "train", "0", 32, 32)
        for i, kind in enumerate(list(looks) * 6)
    ]
    seen = [replace(s, description=Description({looks[s.text[2:]]: 1.0}, {"warm": 1.0, "neutral": 0.0, "cool": 0.0}, {})) for s in samples]
    sizes = ["llm.hidden=48", "llm.heads=2", "llm.vocab_size=400", "llm.context=160", "llm.max_new_tokens=48", "llm.lr=1e-2"]
    recipe = load_recipe("tiny", [*sizes, "llm.steps=80", "llm.checkpoint_every=80", "llm.samples=5"])
    (tmp_path / "llm").mkdir()
    export(finetune([*seen, replace(seen[0], split="validation")], recipe, with_kpi=False), tmp_path / "llm")
    uri = publish(tmp_path / "llm", "boigllm", tmp_path)
    prompts = [build_prompt(sample, None) for sample in samples]
    monkeypatch.setattr(evaluation, "_PROMPTS", 5)  # so that there are several tasks
    found = answer_prompts(uri, prompts, recipe)()
    assert None not in found
    assert len({tuple(answer.colors) for answer in found if answer}) > 1
    assert found == evaluation._answer_chunk(uri, prompts, recipe.llm, recipe.seed)
