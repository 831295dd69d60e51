"""What a language model is trained for: all that the training loop does not know, so that there is
one loop.

The task of BoigLLM and of its no-KPI twin is here, that of the engagement predictor in `predictor`.
Leaves out: the loop (`finetune`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from boig_core.config import Recipe
from boig_core.llm.batches import by_bucket
from boig_core.llm.card import model_card
from boig_core.llm.examples import Encoded, make_examples
from boig_core.llm.generate import generate_answers, load_llm
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.packing import Layout
from boig_core.llm.score import answer_logprobs
from boig_core.training.engine import Engine
from boig_core.verbalization.patterns import Mix
from boig_core.vocabulary import Sample


class Task(Protocol):
    """A kind of model with its examples and its loss: what `boig_core.llm.finetune.train` asks
    for."""

    @property
    def kind(self) -> str:
        """Of what is published."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """What a published manifest says of it."""
        ...

    @property
    def longest_answer(self) -> int:
        """In tokens: what the published model is told, and what prompts leave room for."""
        ...

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...

    def prompts(self, samples: Sequence[Sample]) -> list[str]:
        """Text that the tokenizer of a model from scratch is built of."""
        ...

    def fit(self, model: Any) -> None:
        """Give a causal language model what it needs beside its own parts; trained with it."""
        ...

    def examples(self, tokenizer: Any, samples: Sequence[Sample]) -> Encoded:
        """Samples as the training sees them."""
        ...

    def groups(self, samples: Sequence[Sample]) -> dict[str, list[int]]:
        """Indices of the samples by group: each step draws as many of every group
        (`boig_core.llm.batches.Order`)."""
        ...

    def loss(self, engine: Engine, layout: Layout, micro: int) -> AnswerLoss:
        """What is minimized, on the model that was fitted."""
        ...

    def publish(
        self, weights: dict[str, Tensor], folder: Path, metrics: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Write what stands beside the model into its folder; returns the weights of the language
        model itself."""
        ...

    def reopen(self, folder: Path, sample: Sample) -> tuple[Any, Any]:
        """Open a published folder as those do who use it, and ask it about one sample; returns
        model and tokenizer."""
        ...


@dataclass(frozen=True)
class Describing:
    """The task of BoigLLM, or of its twin, whose prompts tell no KPI."""

    kind: ClassVar[str] = "boigllm"
    recipe: Recipe
    with_kpi: bool

    @property
    def about(self) -> dict[str, Any]:
        """Whether it was told KPIs."""
        return {"with_kpi": self.with_kpi}

    @property
    def longest_answer(self) -> int:
        """As the recipe says."""
        return self.recipe.llm.max_new_tokens

    @property
    def lr(self) -> float:
        """As the recipe says."""
        return self.recipe.llm.lr

    def prompts(self, samples: Sequence[Sample]) -> list[str]:
        """Those of the first pass."""
        mix = Mix.of(self.recipe, with_kpi=True)  # the twin's tokenizer is the same
        return [mix.worded(sample, 0)[0] for sample in samples]

    def fit(self, model: Any) -> None:
        """It needs nothing."""

    def examples(self, tokenizer: Any, samples: Sequence[Sample]) -> Encoded:
        """In the patterns of the recipe."""
        return make_examples(tokenizer, samples, self.recipe, with_kpi=self.with_kpi)

    def groups(self, samples: Sequence[Sample]) -> dict[str, list[int]]:
        """By bucket, so that it learns as much of the rarest as of the others."""
        return by_bucket(samples)

    def loss(self, engine: Engine, layout: Layout, micro: int) -> AnswerLoss:
        """Cross-entropy of the answers."""
        return AnswerLoss(engine, layout, micro)

    def publish(
        self, weights: dict[str, Tensor], folder: Path, metrics: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The model card."""
        (folder / "README.md").write_text(model_card(self.recipe, self.with_kpi, metrics), "utf-8")
        return weights

    def reopen(self, folder: Path, sample: Sample) -> tuple[Any, Any]:
        """It writes the beginning of an answer, and scores the sample's own."""
        model, tokenizer = load_llm(folder)
        prompt, answer = Mix.of(self.recipe, with_kpi=self.with_kpi).worded(sample, 0)
        generate_answers(model, tokenizer, [prompt], max_new_tokens=2)
        answer_logprobs(model, tokenizer, [prompt], [answer])
        return model, tokenizer
