"""Prompt rewriting: the baseline that changes what is asked for and no weight (PAPER: other ways to a better image).

Training posts that did well say what to draw; their words follow the prompt. Leaves out: sampling and measuring, which hold the images
against the prompt as it was (see `generation`).
"""

from __future__ import annotations

from collections.abc import Sequence

from boig_core.errors import InputError
from boig_core.llm.baselines import nearest
from boig_core.vocabulary import Sample


def rewrite_by_retrieval(samples: Sequence[Sample], asked: Sequence[Sample]) -> list[str]:
    """Prompt of each asked sample, followed by the caption (without one: the text) of the nearest HIGH training post.

    The same account's posts are preferred, where it has some; posts with the very same text would add nothing and are passed over.
    The prompt itself comes first, so that a text encoder that cuts long prompts cuts what was added.

    Args:
        samples: of the dataset; all but HIGH samples of the training split are ignored.
        asked: samples whose texts are the prompts.

    Raises:
        InputError: no HIGH training post has another text.
    """
    train = [sample for sample in sorted(samples, key=lambda s: s.id) if sample.split == "train" and sample.bucket == "high"]
    prompts = []
    for sample in asked:
        others = [one for one in train if one.text != sample.text]
        pool = [one for one in others if one.account == sample.account] or others
        if not pool:
            raise InputError(f"{len(train)} HIGH training posts", "must be at least 1 with another text", "set evaluation.rewrite=none")
        found = pool[nearest(pool, [sample])[0]]
        prompts.append(f"{sample.text} {found.caption or found.text}")
    return prompts
