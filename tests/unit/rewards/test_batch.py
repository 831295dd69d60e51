"""What is scored as a job of its own: a split's images, or files with a list of the posts they are
for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from boig_core.config import load_recipe
from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.rewards.batch import BatchScorer, Item, folder_items, split_items, summary
from boig_core.rewards.calibration import Conditions, KpiPair
from boig_core.rewards.loading import Models
from boig_core.vocabulary import Description, Sample

SAMPLE = Sample(
    "1",
    "1",
    "a",
    "acme",
    "2021-07-01T10:00:00Z",
    "a text",
    ("ball",),
    90,
    99,
    "high",
    "test",
    "0" * 64,
    64,
    64,
)
SEEN = replace(SAMPLE, description=Description({"Red": 1.0}))
CONDITIONS = Conditions(accounts={}, fallback=KpiPair(high=70, low=3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "posts.jsonl").write_text('{"image": "a.png", "id": "1"}\n\n')
    return tmp_path


def test_a_split_gives_its_perceived_images() -> None:
    items = split_items(
        [SEEN, replace(SEEN, id="2", split="train"), replace(SAMPLE, id="3")], "test"
    )
    assert [(item.sample.id, item.sha256, item.uri) for item in items] == [("1", "0" * 64, None)]
    with pytest.raises(InputError, match="validation split: holds no perceived sample"):
        split_items([SEEN], "validation")


def test_a_folder_gives_the_files_that_the_list_names(folder: Path) -> None:
    [item] = folder_items([SAMPLE], str(folder), str(folder / "posts.jsonl"))
    digest = hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    assert (item.sample, item.image, item.sha256, item.uri) == (
        SAMPLE,
        "a.png",
        digest,
        str(folder / "a.png"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no image"),
        ("nonsense", "line 1: must hold lines"),
        ('["a.png"]', "line 1: must hold lines"),
        ('{"image": "a.png"}', "line 1: must hold lines"),
        ('{"image": "a.png", "id": "nope"}', "'nope': is no sample of the dataset"),
        ('{"image": "../a.png", "id": "1"}', "must name a path within the folder"),
        ('{"image": 5, "id": "1"}', "must name a path within the folder"),
    ],
)
def test_a_bad_list_ends_in_one_line(folder: Path, text: str, says: str) -> None:
    (folder / "posts.jsonl").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        folder_items([SAMPLE], str(folder), str(folder / "posts.jsonl"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_which(folder: Path) -> None:
    (folder / "posts.jsonl").write_text('{"image": "b.png", "id": "1"}')
    with pytest.raises(NotFoundInStoreError, match=r"b\.png"):
        folder_items([SAMPLE], str(folder), str(folder / "posts.jsonl"))


class Reddish:
    side = 32

    def describe(
        self, images: Sequence[NDArray[np.uint8]], keywords: object = None
    ) -> list[Description]:
        return [Description({"Red" if image[0, 0, 0] > 128 else "Blue": 1.0}) for image in images]


def logprobs(prompts: Sequence[str], answers: Sequence[str]) -> list[NDArray[np.float64]]:
    return [np.array([-1.0 if "Red" in answer else -3.0]) for answer in answers]


def test_files_are_looked_at_and_samples_are_known(folder: Path) -> None:
    Image.new("RGB", (8, 8), "blue").save(folder / "b.png")
    models = Models(logprobs, lambda prompts: [Description({"Red": 1.0})] * len(prompts))

    def scorer(perceiver: Any) -> BatchScorer:
        return BatchScorer(models, perceiver, load_recipe("tiny", ["reward.chunk=4"]), CONDITIONS)

    files = [Item(SEEN, name, "0", str(folder / name)) for name in ("a.png", "b.png")]
    values = scorer(Reddish())(files)
    assert values["mean_logprob"].tolist() == [-1.0, -3.0]
    assert values["attribute_similarity"].tolist() == [1.0, 0.0]
    assert scorer(None)(split_items([SEEN], "test"))["mean_logprob"].tolist() == [-1.0]
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png.*give a JPEG"):
        scorer(Reddish())(files)


def test_the_summary_is_plain_json_by_bucket() -> None:
    items = [
        Item(sample, "", "")
        for sample in (SEEN, replace(SEEN, bucket="low"), replace(SEEN, bucket=None))
    ]
    result = json.loads(
        json.dumps(summary({"dsg": np.array([1.0, 2.0, 6.0])}, np.array([0.0, 1.0, 1.0]), items))
    )
    assert set(result) == {"all", "high", "low", "none"}
    assert result["all"]["n"] == 3
    assert result["all"]["dsg"] == {"mean": 3.0, "std": pytest.approx(np.std([1, 2, 6]))}
    assert result["low"]["reward"] == {"mean": 1.0, "std": 0.0}
