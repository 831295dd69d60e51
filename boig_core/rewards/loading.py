"""The models that a reward asks, opened from what training published.

Leaves out: what is asked of them (see `scorer`).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe, Reward
from boig_core.rewards import REWARDS
from boig_core.rewards.engagement import EngagementPredictor
from boig_core.storage import manifest
from boig_core.verbalization.templates import COMPACT, Wording
from boig_core.vocabulary import Description

AnswerLogprobs = Callable[[Sequence[str], Sequence[str]], Sequence[NDArray[np.float64]]]
"""Prompts and answers to the log-probabilities of each answer's tokens."""
Predict = Callable[[Sequence[str]], Sequence[Description | None]]
"""Prompts to the description that the language model expects; None: its answer could not be
parsed."""


@dataclass(frozen=True)
class Models:
    """All that a reward asks of models, and the wording of prompts that the language model was
    trained in.

    Attributes:
        logprobs: how probable it finds answers.
        predict: what it would answer.
        engagement: the engagement predictor; None where there is none.
        wording: of its prompts.
    """

    logprobs: AnswerLogprobs
    predict: Predict
    engagement: EngagementPredictor | None = None
    wording: Wording = COMPACT


def needs_predictor(reward: Reward) -> bool:
    """Whether what is maximized takes an engagement predictor."""
    return any("engagement" in REWARDS[name].needs for name in reward.weights)


@contextmanager
def fetched(boigllm: str, predictor: str | None) -> Iterator[tuple[Path, Path | None]]:
    """Local folders of a published BoigLLM and engagement predictor, for as long as they are being
    opened."""
    with tempfile.TemporaryDirectory(prefix="boig-reward-") as scratch:
        folders = Path(scratch, "boigllm"), Path(scratch, "predictor")
        manifest.fetch_folder(boigllm, folders[0], kind="boigllm")
        if predictor is not None:
            manifest.fetch_folder(predictor, folders[1], kind="predictor")
        yield folders[0], folders[1] if predictor is not None else None


def load_models(
    llm_folder: Path | str, recipe: Recipe, predictor: Path | str | None = None
) -> Models:
    """Teacher forcing and greedy answers of a language model in a local folder, and an engagement
    predictor in another."""
    # Imported here and not above: torch takes seconds, and drivers that open no model import this
    # file too.
    from boig_core.llm.constraint import AnswerConstraint
    from boig_core.llm.generate import generate_answers, load_llm, parse_or_none
    from boig_core.llm.score import answer_logprobs

    llm = recipe.llm
    model, tokenizer = load_llm(Path(llm_folder))
    # Built at the first prediction and kept: most rewards never ask for one.
    constraint = functools.cache(lambda: AnswerConstraint(tokenizer) if llm.constrained else None)

    def predict(prompts: Sequence[str]) -> list[Description | None]:
        options = {"max_new_tokens": llm.max_new_tokens, "batch": llm.generate_batch}
        return [
            parse_or_none(text)
            for text in generate_answers(
                model, tokenizer, prompts, constraint=constraint(), **options
            )
        ]

    engagement: EngagementPredictor | None = None
    if predictor is not None:
        # A reward without a predictor imports nothing of its training.
        from boig_core.llm.predictor import load_predictor

        engagement = load_predictor(predictor)
    return Models(
        lambda prompts, answers: answer_logprobs(model, tokenizer, prompts, answers),
        predict,
        engagement,
        Wording.of(recipe),
    )
