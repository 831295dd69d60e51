"""Prompts that text encoders cut are counted as the model sees them, by each of its tokenizers."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Recipe
from boig_core.diffusion.finetune import ImageExamples, finetune
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.pipeline import encode_prompts, load_pipeline
from boig_core.diffusion.prompt_cuts import PromptCuts, count_cuts, limited_tokenizers
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.errors import InputError
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

LIMIT = 44  # of the shipped model's tokenizer
LONG = "ball " * 60


@cache
def shipped() -> Any:
    return load_pipeline("package:tiny-sd")


@pytest.fixture
def pipe() -> Any:
    return shipped()


def words(count: int, last: str = "ball") -> str:
    return " ".join(["red"] * (count - 1) + [last])


@pytest.mark.parametrize(("count", "cut"), [(LIMIT - 3, 0), (LIMIT - 2, 0), (LIMIT - 1, 1)])
def test_a_prompt_is_cut_from_the_first_token_that_is_not_read(
    pipe: Any, count: int, cut: int
) -> None:
    cuts = count_cuts(limited_tokenizers(pipe), [words(count)], ["post"])
    assert cuts == PromptCuts(1, cut, 0, "post" if cut else "", LIMIT)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda same, ends: " ".join(["red"] * same + ends),
            st.integers(0, 50),
            st.lists(st.sampled_from(["ball", "blue", "👩‍👩‍👧", "<|endoftext|>", "nul\x00", " "]), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)  # fmt: skip
def test_texts_count_as_alike_where_their_conditions_are(texts: list[str]) -> None:
    pipe = shipped()
    cuts = count_cuts(limited_tokenizers(pipe), texts, texts)
    conditions = encode_prompts(pipe, texts).text_BLD
    whole = [
        pipe.tokenizer(text, split_special_tokens=True, verbose=False).input_ids for text in texts
    ]
    assert cuts.cut == sum(len(ids) > LIMIT for ids in whole)
    alike = sum(
        any(
            torch.equal(conditions[i], conditions[j]) and whole[i] != whole[j]
            for j in range(len(texts))
        )
        for i in range(len(texts))
    )
    assert cuts.alike == alike


def test_the_shorter_of_two_tokenizers_decides(pipe: Any) -> None:
    """SDXL's prompt is cut where one of its encoders loses an end, and two prompts are the same
    where both encoders see no difference."""
    tokenizer, texts = pipe.tokenizer, [words(10, "ball"), words(10, "blue")]
    both = [(tokenizer, LIMIT), (tokenizer, 8)]
    assert count_cuts(both, texts, ["a", "b"]) == PromptCuts(2, 2, 0, "a", 8)
    assert count_cuts(both[1:] * 2, texts, ["a", "b"]).alike == 2


def test_both_tokenizers_of_sdxl_are_asked(sdxl: str) -> None:
    assert [limit for _, limit in limited_tokenizers(load_pipeline(sdxl))] == [LIMIT, LIMIT]


def on_texts(samples: Sequence[Sample], texts: Sequence[str]) -> list[Sample]:
    return [replace(sample, text=text) for sample, text in zip(samples, texts, strict=False)]


@pytest.mark.parametrize("stage", ["finetune_sd", "ddpo"])
def test_trainings_count_and_tell_once(
    recipe: Recipe,
    samples: list[Sample],
    warmth: Any,
    stage: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = ["a red ball", f"{LONG} red", f"{LONG} blue", words(50)]
    checkpoints, rows = Checkpoints(str(tmp_path), 1), []
    with caplog.at_level(logging.WARNING):
        if stage == "ddpo":
            rollouts = LocalRollouts(Sampler(recipe), warmth)
            prompts = on_texts(samples, texts)
            learner = Learner(
                recipe, prompts, rollouts, checkpoints, lambda _, row: rows.append(row)
            )
            learner.fit()
            cuts = learner.cuts
        else:
            counts: list[PromptCuts] = []
            recipe = recipe.model_copy(
                update={"sd": recipe.sd.model_copy(update={"steps": 1, "batch": 2})}
            )
            names = ["s0", "s1", "s2", "s3"]
            examples = ImageExamples(np.zeros((4, 32, 32, 3), np.uint8), texts, names)
            finetune(recipe, examples, checkpoints, lambda *_: None, counts.append)
            [cuts] = counts
    assert cuts.metrics == {"cut_prompts": 3, "cut_prompts_alike": 2}
    told = [r.getMessage() for r in caplog.records if "longer than" in r.getMessage()]
    assert told == [
        "3 of 4 prompts (75%) are longer than the 44 tokens that the text encoder reads, such as that of s1: "
        "their ends have no effect, 2 are then the same as another"
    ]
    # A row is of an epoch: what holds for the whole training stands with what it ends in.
    assert all("cut_prompts" not in row for row in rows)


def test_nothing_is_told_where_nothing_is_cut(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    cuts = count_cuts(limited_tokenizers(pipe), ["a ball", "", "a ball"], ["a", "b", "c"])
    cuts.tell()
    assert cuts == PromptCuts(3, 0, 0, "", LIMIT)
    assert caplog.records == []


@pytest.mark.parametrize("text", ["lone \ud83d here", "\udc00", "a" * 100 + "\udfff"])
def test_half_a_character_is_a_user_error(pipe: Any, text: str) -> None:
    for read in (
        lambda: encode_prompts(pipe, ["fine", text]),
        lambda: count_cuts(limited_tokenizers(pipe), [text], ["x"]),
    ):
        with pytest.raises(InputError, match="half a character") as caught:
            read()
        str(caught.value).encode()
