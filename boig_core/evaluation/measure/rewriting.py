"""Prompt rewriting: the baseline that changes what is asked for and no weight (other ways to
a better image).

Training posts that did well, or BoigLLM, say what to draw; their words follow the prompt, so that a
text encoder that cuts long prompts cuts what was added. Leaves out: asking BoigLLM
(`boig_core.cluster.evaluation`), sampling and measuring, which hold the images against the prompt
as it was (see `generation`).
"""

from __future__ import annotations

from collections.abc import Sequence

from boig_core.config import Recipe
from boig_core.errors import InputError
from boig_core.llm.baselines import nearest
from boig_core.observability.logs import get_logger
from boig_core.perception.objects import UNKNOWN
from boig_core.rewards.calibration import Conditions
from boig_core.verbalization.templates import Wording, build_prompt
from boig_core.vocabulary import Box, Description, Sample

log = get_logger(__name__)


def rewrite_by_retrieval(samples: Sequence[Sample], asked: Sequence[Sample]) -> list[str]:
    """Prompt of each asked sample, followed by the caption (without one: the text) of the nearest
    HIGH training post.

    The same account's posts are preferred, where it has some; posts with the very same text would
    add nothing and are passed over.

    Args:
        samples: of the dataset; all but HIGH samples of the training split are ignored.
        asked: samples whose texts are the prompts.

    Raises:
        InputError: no HIGH training post has another text.
    """
    train = [
        sample
        for sample in sorted(samples, key=lambda s: s.id)
        if sample.split == "train" and sample.bucket == "high"
    ]
    prompts = []
    for sample in asked:
        # The post's own text would only repeat the prompt.
        others = [candidate for candidate in train if candidate.text != sample.text]
        pool = [candidate for candidate in others if candidate.account == sample.account] or others
        if not pool:
            raise InputError(
                f"{len(train)} HIGH training posts",
                "must be at least 1 with another text",
                "leave retrieval out of evaluation.rewrite",
            )
        neighbor = pool[nearest(pool, [sample])[0]]
        prompts.append(f"{sample.text} {neighbor.caption or neighbor.text}")
    return prompts


def high_prompts(asked: Sequence[Sample], conditions: Conditions, recipe: Recipe) -> list[str]:
    """What BoigLLM is asked to describe a HIGH image of each sample's post: the prompts that the
    reward asks under."""
    wording = Wording.of(recipe)
    return [
        build_prompt(sample, conditions.of(sample.account).high_condition, wording)
        for sample in asked
    ]


def rewrite_by_description(
    asked: Sequence[Sample], descriptions: Sequence[Description | None]
) -> list[str]:
    """Prompt of each asked sample, followed by BoigLLM's description of a HIGH image in words;
    without one, the prompt alone.

    Args:
        asked: samples whose texts are the prompts.
        descriptions: answers to their `high_prompts`, boxes in pixels of the sample's (width,
            height).
    """
    texts = [
        in_words(description, sample) if description else ""
        for sample, description in zip(asked, descriptions, strict=True)
    ]
    if unsaid := texts.count(""):
        log.warning(
            "BoigLLM said nothing of %d of %d prompts: they stay as they were", unsaid, len(texts)
        )
    return [f"{sample.text} {words}".rstrip() for sample, words in zip(asked, texts, strict=True)]


def in_words(description: Description, sample: Sample) -> str:
    """``in dark blue and white, cool tones, with a ball at the top left and a star at the center``;
    empty where nothing is described.

    Colors from the largest share down, the tone with the largest share, objects that have a name,
    from the largest down.
    """

    def area(box: Box) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    colors = [
        name.replace("_", " ").lower()
        # What matters most comes first: encoders cut long prompts at the end.
        for name in sorted(description.colors, key=lambda name: -description.colors[name])
    ]
    objects = sorted(
        (name for name in description.objects if name != UNKNOWN),
        key=lambda name: -area(description.objects[name]),
    )
    things = [
        f"{'an' if name[0] in 'aeiou' else 'a'} {name} at the {_place(description.objects[name], sample)}"
        for name in objects
    ]
    parts = [f"in {_listed(colors)}"] if colors else []
    parts += (
        [f"{max(description.tones, key=lambda tone: description.tones[tone])} tones"]
        if description.tones
        else []
    )
    parts += [f"with {_listed(things)}"] if things else []
    return ", ".join(parts)


def _place(box: Box, sample: Sample) -> str:
    """Where the middle of a box is, by thirds of the image."""
    x, y = (box[0] + box[2]) / 2 / sample.width, (box[1] + box[3]) / 2 / sample.height
    words = [
        word
        for word, here in (
            ("top", y < 1 / 3),
            ("bottom", y > 2 / 3),
            ("left", x < 1 / 3),
            ("right", x > 2 / 3),
        )
        if here
    ]
    return " ".join(words) or "center"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
