"""Cheap predictors of an image's description, for scale beside BoigLLM: they train nothing and see
no KPI.

`retrieval` answers with the description of the training post whose words are most alike;
`most_frequent` gives one answer to all.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import TONES, Box, Description, Sample


def retrieval(train: Sequence[Sample], asked: Sequence[Sample]) -> list[Description]:
    """Description of the `nearest` training sample.

    Args:
        train: described samples, at least one.
        asked: samples whose own description is not looked at.
    """
    return [train[index].seen for index in nearest(train, asked)]


def nearest(train: Sequence[Sample], asked: Sequence[Sample]) -> list[int]:
    """Index of the training sample with the largest Jaccard overlap of words (company, text,
    keywords); of equals the first."""
    words = [_words(sample) for sample in train]
    sizes_N = np.array([len(indices) for indices in words])
    # Posts by word: each question looks only at posts that share a word with it.
    holders: dict[str, list[int]] = defaultdict(list)
    for index, indices in enumerate(words):
        for word in indices:
            holders[word].append(index)
    where: Mapping[str, NDArray[np.int64]] = {
        word: np.array(indices, np.int64) for word, indices in holders.items()
    }
    answers = []
    for sample in asked:
        own = _words(sample)
        shared_N = np.zeros(len(train))
        for word in own & where.keys():
            shared_N[where[word]] += 1
        answers.append(int(np.argmax(shared_N / (sizes_N + len(own) - shared_N))))
    return answers


def most_frequent(train: Sequence[Sample]) -> Description:
    """The typical image: as many of the most frequent colors and objects as images have on average,
    at their mean coverage and box."""
    seen = [sample.seen for sample in train]
    colors = _common([d.colors for d in seen])
    shares = {
        name: float(np.mean([d.colors[name] for d in seen if name in d.colors])) for name in colors
    }
    objects = _common([d.objects for d in seen])
    # A mean is over the images that show its color, so the means need not sum to 1.
    return Description(
        colors={name: share / sum(shares.values()) for name, share in shares.items()},
        tones={tone: float(np.mean([d.tones.get(tone, 0.0) for d in seen])) for tone in TONES},
        objects={
            name: _mean_box([d.objects[name] for d in seen if name in d.objects])
            for name in objects
        },
    )


def _common(named: Sequence[Mapping[str, object]]) -> list[str]:
    counts = Counter(name for names in named for name in names)
    size = round(sum(counts.values()) / len(named))
    return sorted(counts, key=lambda name: (-counts[name], name))[:size]


def _mean_box(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = (float(edge) for edge in np.mean(np.array(boxes, np.float64), axis=0))
    return x1, y1, x2, y2


def _words(sample: Sample) -> frozenset[str]:
    return frozenset(
        re.findall(r"\w+", " ".join((sample.company, sample.text, *sample.keywords)).lower())
    )
