"""The engagement predictor: a post with its verbalized image goes in, its KPI within the account
comes out, 0 to 100.

A causal language model that is trained as BoigLLM is (`finetune`), on other prompts; with a
regression head where the recipe says so. Published as a transformers folder with ``predictor.json``
and, with a head, ``head.safetensors`` beside. Each post is drawn as often as any other, where
BoigLLM sees as many high as low ones. Leaves out: the wording (`boig_core.verbalization`), the head
and its loss (`regression`). Shape letters: N posts, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from boig_core.config import Recipe
from boig_core.errors import InputError, ScorerError
from boig_core.llm.batches import as_one
from boig_core.llm.card import predictor_card
from boig_core.llm.examples import Encoded
from boig_core.llm.finetune import Trained, train
from boig_core.llm.generate import load_llm
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.packing import Layout
from boig_core.llm.regression import HEAD, RatedLoss, add_head, listening
from boig_core.llm.score import example_logprobs
from boig_core.llm.tokens import (
    Example,
    check_answers,
    encode_answers,
    encode_examples,
    limits_of,
)
from boig_core.training.engine import Engine
from boig_core.verbalization.answer import print_prediction
from boig_core.verbalization.templates import Wording, build_predictor_prompt
from boig_core.vocabulary import Description, Sample

Floats = NDArray[np.float64]
_ABOUT: Final = "predictor.json"
_HEAD: Final = "head.safetensors"
_LONGEST: Final = 32
"""Answer tokens that prompts leave room for: a KPI's name and a number."""
_NUMBERS: Final = range(101)
_BATCH: Final = 32
_JUDGE_PARTS: Final = 8
_REMEDY: Final = "give the folder of a published predictor"


class _About(BaseModel):
    """Content of ``predictor.json``: what reads the number, and how prompts are worded."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: Literal["text", "head"]
    wording: Wording


@dataclass(frozen=True)
class Rating:
    """The task of an engagement predictor (`boig_core.llm.task.Task`).

    Attributes:
        recipe: its wording and method.
        kind: ``predictor``, which a reward may ask, or ``judge``, which nothing that trains or
            chooses reads.
    """

    recipe: Recipe
    kind: str = "predictor"

    @property
    def about(self) -> dict[str, Any]:
        """What reads the number."""
        return {"method": self.recipe.llm.predictor}

    @property
    def longest_answer(self) -> int:
        """One number."""
        return _LONGEST

    @property
    def lr(self) -> float:
        """Its own where the recipe gives one."""
        return self.recipe.llm.predictor_lr or self.recipe.llm.lr

    @property
    def _head(self) -> bool:
        return self.recipe.llm.predictor == "head"

    def prompts(self, samples: Sequence[Sample]) -> list[str]:
        """With each sample's own image."""
        return _prompts(samples, [sample.seen for sample in samples], Wording.of(self.recipe))

    def fit(self, model: Any) -> None:
        """The regression head, where the recipe asks for one."""
        if self._head:
            add_head(model)

    def examples(self, tokenizer: Any, samples: Sequence[Sample]) -> Encoded:
        """The same in every pass."""
        answers = [
            print_prediction(sample.kpi_normalized, self.recipe.data.kpi) for sample in samples
        ]
        check_answers(tokenizer, answers, self.recipe.llm.base)
        encoded = encode_examples(
            tokenizer, self.prompts(samples), answers, self.recipe.llm.context, _LONGEST
        )
        return Encoded(
            [
                replace(e, rating=sample.kpi_normalized / 100)
                for e, sample in zip(encoded, samples, strict=True)
            ]
        )

    def groups(self, samples: Sequence[Sample]) -> dict[str, list[int]]:
        """One: draws balanced over the buckets would shift the mean that is predicted."""
        return as_one(samples)

    def loss(self, engine: Engine, layout: Layout, micro: int) -> AnswerLoss:
        """Cross-entropy of the answers, with a head also its squared error."""
        return (RatedLoss if self._head else AnswerLoss)(engine, layout, micro)

    def publish(
        self, weights: dict[str, Tensor], folder: Path, metrics: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """``predictor.json``, the head and the model card."""
        # The transformers class that opens the folder knows no such layer: it has a file of its
        # own.
        own = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{HEAD}.")}
        if self._head:
            save_file(
                {name: weights[f"{HEAD}.{name}"].float() for name in ("weight", "bias")},
                folder / _HEAD,
            )
        about = _About(method="head" if self._head else "text", wording=Wording.of(self.recipe))
        (folder / _ABOUT).write_text(about.model_dump_json(indent=1), "utf-8")
        (folder / "README.md").write_text(predictor_card(self.recipe, metrics), "utf-8")
        return own

    def reopen(self, folder: Path, sample: Sample) -> tuple[Any, Any]:
        """It predicts the KPI that the sample's own image reaches."""
        predictor = load_predictor(folder)
        predictor.predict([sample], [sample.seen])
        return predictor.model, predictor.tokenizer


def train_predictor(samples: Sequence[Sample], recipe: Recipe, **options: Any) -> Trained:
    """Train an engagement predictor on the training split; options and errors as for
    `boig_core.llm.finetune.train`."""
    return train(samples, recipe, Rating(recipe), **options)


def judge_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The split ``judge`` as the posts of a training of its own: about one in eight validates, by
    the hash of its group or post."""
    kept = [sample for sample in samples if sample.split == "judge"]
    # By what a post's images, or like images, share: none of them validates what another taught.
    lots = [
        int(hashlib.sha256((sample.group or sample.post).encode()).hexdigest()[:8], 16)
        % _JUDGE_PARTS
        for sample in kept
    ]
    return [
        replace(sample, split="train" if lot else "validation")
        for sample, lot in zip(kept, lots, strict=True)
    ]


class Predictor:
    """A trained predictor. Make it with `load_predictor`.

    Attributes:
        model: in evaluation mode.
        tokenizer: its own.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        wording: of its prompts.
        head: whether the model has a regression head.
    """

    def __init__(self, model: Any, tokenizer: Any, wording: Wording, *, head: bool) -> None:
        self.model, self.tokenizer, self._wording, self._head = model, tokenizer, wording, head
        answers = [print_prediction(number, wording.kpi) for number in _NUMBERS]
        self._answers = encode_answers(tokenizer, answers)
        self._widest = max(answers, key=lambda answer: len(self._answers[answers.index(answer)]))

    def predict(self, samples: Sequence[Sample], descriptions: Sequence[Description]) -> Floats:
        """Expected KPI of each post with an image of this description, (N,), 0 to 100; the same
        call gives the same bits.

        With a head: what it says, clipped. Without: the mean of the numbers 0 to 100, weighed by
        how probable the model finds each as its answer. The likeliest number alone would be a worse
        reward: it is no mean, and jumps where two numbers are about as likely.

        Raises:
            ScorerError: a prediction is not finite.
            ValueError: other than one description per post.
        """
        prompts = _prompts(samples, descriptions, self._wording)
        # With the longest answer, so that no prompt depends on which number is asked for.
        examples = encode_examples(
            self.tokenizer,
            prompts,
            [self._widest] * len(prompts),
            *limits_of(self.model, self.tokenizer),
        )
        said_N = self._by_head(examples) if self._head else self._by_text(examples)
        if not np.isfinite(said_N).all():
            raise ScorerError(
                f"prediction {said_N[~np.isfinite(said_N)][0]}",
                "must be finite",
                "redo the chunk; look at the predictor",
            )
        return np.clip(said_N, 0.0, 100.0)

    @torch.inference_mode()
    def _by_head(self, examples: Sequence[Example]) -> Floats:
        said_N, layout = np.empty(len(examples)), Layout(self.tokenizer.pad_token_id)
        # Posts of like lengths together, which saves padding.
        order = sorted(range(len(examples)), key=lambda i: examples[i].length)
        for picked in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
            # The head reads the prompt's last token alone, whose column is kept for one answer
            # token after it; the rest of the answer would be read for nothing.
            rows = layout([replace(examples[i], answer_T=examples[i].answer_T[:1]) for i in picked])
            with listening(self.model, rows.first_E) as states:
                self.model(**rows.inputs(self.model.device))
            said_N[picked] = 100 * states[0].double().cpu().numpy()
        return said_N

    def _by_text(self, examples: Sequence[Example]) -> Floats:
        pairs = [
            replace(example, answer_T=answer_T)
            for example in examples
            for answer_T in self._answers
        ]
        # Two posts a pass: the 101 answers of each go on from one reading of its prompt.
        logprobs = example_logprobs(
            self.model, self.tokenizer.pad_token_id, pairs, chunk=2 * len(_NUMBERS)
        )
        logprob_NK = np.array([row_T.sum() for row_T in logprobs]).reshape(-1, len(_NUMBERS))
        # The likeliest number counts 1, which cancels out below: exponentials of the sums
        # themselves may all be 0.
        share_NK = np.exp(logprob_NK - logprob_NK.max(axis=1, keepdims=True, initial=-np.inf))
        expected: Floats = share_NK @ np.array(_NUMBERS, np.float64) / share_NK.sum(axis=1)
        return expected


def load_predictor(folder: Path | str) -> Predictor:
    """Open a published predictor, on the GPU if there is one.

    Raises:
        InputError: the folder holds none, or its head is not one of its model.
    """
    try:
        about = _About.model_validate_json((Path(folder) / _ABOUT).read_bytes())
    except (OSError, ValidationError) as exc:
        raise InputError(
            f"engagement predictor {folder}", f"holds no valid {_ABOUT}", _REMEDY
        ) from exc
    model, tokenizer = load_llm(folder)
    if about.method == "head":
        try:
            # The file holds float32, whatever the model's own precision is.
            add_head(model).float().load_state_dict(load_file(Path(folder) / _HEAD))
        except (OSError, SafetensorError, RuntimeError) as exc:
            raise InputError(
                f"engagement predictor {folder}", f"holds no {_HEAD} that fits its model", _REMEDY
            ) from exc
        model.get_submodule(HEAD).to(model.device)
    return Predictor(model, tokenizer, about.wording, head=about.method == "head")


def _prompts(
    samples: Sequence[Sample], descriptions: Sequence[Description], wording: Wording
) -> list[str]:
    return [
        build_predictor_prompt(sample, seen, wording)
        for sample, seen in zip(samples, descriptions, strict=True)
    ]
