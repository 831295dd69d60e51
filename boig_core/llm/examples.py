"""Examples: samples as the token ids that a training sees, sample by sample and pass by pass.

Which pattern a sample meets, and how far off its approximate KPIs are, changes from pass to pass
(`boig_core.verbalization.patterns`). All samples are encoded once, as their first pass has them:
that says early what does not fit and how much is cut. What differs in a later pass is encoded when
it is drawn. Leaves out: the order of the draws (see `batches`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

from boig_core.config import LLM, Pattern, Recipe
from boig_core.llm.batches import SampleDraw
from boig_core.llm.tokens import Example, check_answers, encode_examples
from boig_core.verbalization.patterns import Mix
from boig_core.vocabulary import Sample


def make_examples(
    tokenizer: Any, samples: Sequence[Sample], recipe: Recipe, *, with_kpi: bool
) -> TokenExamples:
    """Samples as a recipe's training sees them, with or without their KPIs in the prompts."""
    return TokenExamples(tokenizer, samples, recipe.llm, Mix.of(recipe, with_kpi=with_kpi))


class Encoded(Sequence[Example]):
    """One example a sample, the same in every pass.

    Args:
        first: the examples.
    """

    def __init__(self, first: Sequence[Example]) -> None:
        self._first = list(first)

    def __len__(self) -> int:
        return len(self._first)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return self._first[index]

    def drawn(self, draws: Sequence[SampleDraw]) -> list[Example]:
        """The examples of some draws, in order."""
        return [self._first[draw.row] for draw in draws]

    @property
    def cut(self) -> dict[str, float]:
        """How many samples lost keywords or text because their prompt was too long, and how many
        keywords they lost in all."""
        return {
            "cut_samples": sum(
                example.cut_keywords + example.cut_text > 0 for example in self._first
            ),
            "cut_keywords": sum(example.cut_keywords for example in self._first),
        }


class TokenExamples(Encoded):
    """One example a sample, as its first pass has it; `drawn` gives those of any pass.

    Raises:
        InputError: a prompt or an answer does not fit into the context.
        RecipeError: the base's tokenizer changes answers.
    """

    def __init__(self, tokenizer: Any, samples: Sequence[Sample], llm: LLM, mix: Mix) -> None:
        self._tokenizer = tokenizer
        self._samples = samples
        self._llm = llm
        self._mix = mix
        super().__init__(self._encode([SampleDraw(row, 0) for row in range(len(samples))]))
        self._kept: dict[tuple[int, Pattern], Example] = {}
        # What a pattern words alike in every pass is encoded once for all of them.
        for row, example in enumerate(self._first):
            self._keep(SampleDraw(row, 0), example)

    def drawn(self, draws: Sequence[SampleDraw]) -> list[Example]:
        """The examples of some draws, in order."""
        known = {draw: example for draw in draws if (example := self._known(draw)) is not None}
        # All at once, because a tokenizer is fast on many.
        missing = list(dict.fromkeys(draw for draw in draws if draw not in known))
        for draw, example in zip(missing, self._encode(missing), strict=True):
            known[draw] = example
            self._keep(draw, example)
        return [known[draw] for draw in draws]

    def _known(self, draw: SampleDraw) -> Example | None:
        return (
            self._first[draw.row]
            if draw.turn == 0
            else self._kept.get((draw.row, self._pattern(draw)))
        )

    def _pattern(self, draw: SampleDraw) -> Pattern:
        return self._mix.pattern(self._samples[draw.row], draw.turn)

    def _keep(self, draw: SampleDraw, example: Example) -> None:
        if not self._mix.varies(pattern := self._pattern(draw)):
            self._kept[draw.row, pattern] = example

    def _encode(self, draws: Iterable[SampleDraw]) -> list[Example]:
        worded = [self._mix.worded(self._samples[draw.row], draw.turn) for draw in draws]
        prompts, answers = [prompt for prompt, _ in worded], [answer for _, answer in worded]
        check_answers(self._tokenizer, answers, self._llm.base)
        return encode_examples(
            self._tokenizer, prompts, answers, self._llm.context, self._llm.max_new_tokens
        )
