"""Prompts that are longer than text encoders read: how many there are, and which of them become the
same to the model.

A CLIP reads 77 tokens, about 60 words, and what follows has no influence. Pure functions of
tokenizers and texts. Leaves out: the encoding itself (`pipeline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from boig_core.observability.logs import get_logger
from boig_core.vocabulary import require_whole_characters

log = get_logger(__name__)

TOKENIZERS: Final = ("tokenizer", "tokenizer_2")
"""Parts of a pipeline, and folders of a published one."""
Limited: TypeAlias = tuple[Any, int]
"""A tokenizer, and how many tokens its encoder reads, the marks of start and end among them."""


@dataclass(frozen=True)
class PromptCuts:
    """Prompts against the limit of the text encoders.

    Attributes:
        prompts: how many there are.
        cut: how many are longer than an encoder reads.
        alike: how many are the same to the model as another text, because both differ only beyond
            the limit.
        example: name of the first that is cut; empty where none is.
        limit: tokens that the shortest encoder reads.
    """

    prompts: int
    cut: int
    alike: int
    example: str
    limit: int

    @property
    def metrics(self) -> dict[str, float]:
        """The counts, as rows and manifests have them."""
        return {"cut_prompts": self.cut, "cut_prompts_alike": self.alike}

    def tell(self) -> None:
        """One line in the log, where any is cut."""
        if self.cut:
            log.warning("%s", self)

    def __str__(self) -> str:
        alike = f", {self.alike} are then the same as another" if self.alike else ""
        return (
            f"{self.cut} of {self.prompts} prompts ({self.cut / max(1, self.prompts):.0%}) are longer than the "
            f"{self.limit} tokens that the text encoder reads, such as that of {self.example}: their ends have no effect{alike}"
        )


def count_cuts(
    tokenizers: Sequence[Limited], texts: Sequence[str], names: Sequence[str]
) -> PromptCuts:
    """Count the texts that at least one tokenizer cuts.

    Args:
        tokenizers: one or two, as the model has them.
        texts: prompts; repeated ones count each time.
        names: of the texts, for people, such as ids of posts.

    Raises:
        InputError: a text holds half a character.
    """
    require_whole_characters(texts)
    distinct = list(dict.fromkeys(texts))
    whole: list[tuple[tuple[int, ...], ...]] = [()] * len(distinct)
    for tokenizer, _ in tokenizers:
        ids = tokenizer(distinct, split_special_tokens=True, verbose=False)["input_ids"]
        whole = [(*rows, tuple(row)) for rows, row in zip(whole, ids, strict=True)]
    limits = [limit for _, limit in tokenizers]
    long = {
        text
        for text, rows in zip(distinct, whole, strict=True)
        if any(len(row) > limit for row, limit in zip(rows, limits, strict=True))
    }
    seen: dict[tuple[tuple[int, ...], ...], set[tuple[tuple[int, ...], ...]]] = {}
    # Without its last token, the mark of the end: a cut text ends with that mark at the limit.
    read = [tuple(r[: n - 1] for r, n in zip(rows, limits, strict=True)) for rows in whole]
    for kept, rows in zip(read, whole, strict=True):
        seen.setdefault(kept, set()).add(rows)
    alike = {text for text, kept in zip(distinct, read, strict=True) if len(seen[kept]) > 1}
    cut = [name for text, name in zip(texts, names, strict=True) if text in long]
    return PromptCuts(
        prompts=len(texts),
        cut=len(cut),
        alike=sum(text in alike for text in texts),
        example=cut[0] if cut else "",
        limit=min(limits),
    )


def limited_tokenizers(pipe: Any) -> list[Limited]:
    """Those of a pipeline: SDXL has two."""
    return [
        (pipe.components[name], pipe.components[name].model_max_length)
        for name in TOKENIZERS
        if name in pipe.components
    ]
