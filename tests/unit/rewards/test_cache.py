"""Scores that are kept in a store: asked once, whatever the order and the company, and asked again
when anything that decides changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boig_core.config import LLM
from boig_core.rewards import cache
from boig_core.rewards.cache import cache_folder, in_parts, questions, through_cache
from boig_core.rewards.calibration import Conditions, KpiPair
from boig_core.verbalization.templates import COMPACT
from boig_core.vocabulary import Sample

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
    128,
    64,
)
CONDITIONS = Conditions(accounts={"a": KpiPair(high=90, low=5)}, fallback=KpiPair(high=70, low=3))


class Counting:
    """Scores an index by itself, last part first, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, missing: Sequence[int]) -> Iterator[tuple[Sequence[int], dict[str, Any]]]:
        self.asked += missing
        for part in reversed(list(in_parts(missing, 2))):
            yield part, {"dsg": np.array(part) + 0.1, "tokens": np.full(len(part), 5.0)}


def test_what_is_known_is_not_scored_again(tmp_path: Path) -> None:
    scored, folder = Counting(), str(tmp_path / "key")
    first, known = through_cache(folder, ["a", "b", "c"], scored)
    assert (first["dsg"].tolist(), first["tokens"].tolist(), known) == (
        [0.1, 1.1, 2.1],
        [5.0] * 3,
        0,
    )
    again, known = through_cache(folder, ["c", "x", "a"], scored)
    assert (again["dsg"].tolist(), known) == ([2.1, 1.1, 0.1], 2)
    assert scored.asked == [0, 1, 2, 1]
    assert through_cache(folder, [], scored) == ({}, 0)


def test_a_job_that_breaks_off_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_KEEP", 2)

    def breaks(missing: Sequence[int]) -> Iterator[tuple[Sequence[int], dict[str, Any]]]:
        yield missing[:2], {"dsg": np.array([1.0, 2.0])}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        through_cache(str(tmp_path), ["a", "b", "c"], breaks)
    values, known = through_cache(str(tmp_path), ["a", "b"], Counting())
    assert (values["dsg"].tolist(), known) == ([1.0, 2.0], 2)


def test_a_question_is_the_image_its_frame_and_what_the_prompts_say() -> None:
    changed = [
        (SAMPLE, CONDITIONS, "1" * 64),
        (replace(SAMPLE, text="another"), CONDITIONS, SAMPLE.image),
        (replace(SAMPLE, account="elsewhere"), CONDITIONS, SAMPLE.image),
        (replace(SAMPLE, width=64), CONDITIONS, SAMPLE.image),
        (
            SAMPLE,
            CONDITIONS.model_copy(update={"accounts": {"a": KpiPair(high=91, low=5)}}),
            SAMPLE.image,
        ),
        (
            SAMPLE,
            CONDITIONS.model_copy(update={"accounts": {"a": KpiPair(high=90, low=4)}}),
            SAMPLE.image,
        ),
    ]
    [usual] = questions([SAMPLE.image], [SAMPLE], CONDITIONS, COMPACT)
    asked = {questions([image], [sample], result, COMPACT)[0] for sample, result, image in changed}
    assert len(asked | {usual}) == 1 + len(changed)
    assert questions(
        [SAMPLE.image], [replace(SAMPLE, id="2", kpi=1, split="train")], CONDITIONS, COMPACT
    ) == [usual]


def test_the_folder_changes_with_all_that_decides_about_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: dict[str, Any] = {
        "names": ("dsg", "contrast"),
        "perception": "p",
        "model": "m",
        "llm": LLM(),
    }
    folder = cache_folder("s3://b", **usual)
    assert folder.startswith("s3://b/rewards/")
    assert cache_folder("s3://b", **usual | {"names": ("contrast", "dsg")}) == folder
    changes = (
        {"names": ("dsg",)},
        {"perception": "q"},
        {"model": "n"},
        {"predictor": "r"},
        {"llm": LLM(max_new_tokens=99)},
    )
    others = {cache_folder("s3://b", **usual | change) for change in changes}
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "dsg.py").write_text("changed")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "rewards" / "cache.py"))
    assert len(others | {folder, cache_folder("s3://b", **usual)}) == 7
