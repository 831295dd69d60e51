"""Sampling for evaluation on a real local Ray: the same bits as in one process, from packaged and from committed models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from boig_core.cluster.evaluation import SampleActor, Source, sample_models
from boig_core.cluster.session import connect
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.models import resolve_model
from boig_core.storage import commit, manifest, store

RECIPE = load_recipe("tiny", ["evaluation.sampling_steps=2", "ddpo.chunk=4", "ddpo.prompts=2", "ddpo.images_per_prompt=4"])
PROMPTS = ["a ball in summer", "a box in winter", "a star in spring"] * 2
SEEDS = [5, 6, 7, 8, 9, 10]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.pop("RAY_ADDRESS", None)
    connect(cpus=2)
    yield
    ray.shutdown()


def test_actors_give_the_bits_of_one_process_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    attempt, uri = str(tmp_path / "runs/attempt-1"), str(tmp_path / "models/candidate")
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    done = store.join(attempt, commit.COMMIT)
    manifest.publish_folder(Path(resolve_model("package:tiny-sd")), uri, kind="sd", lineage=lineage, commit=done)
    commit.commit(attempt, {"sd": uri}, {})
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
