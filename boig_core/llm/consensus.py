"""The consensus of sampled answers: the description that overlaps most with what a model would say,
on average over its samples.

The likeliest answer is the mode of a distribution, which a set metric does not ask for: it stops at
few colors, because each further one is unlikely on its own. So names are chosen for their expected
IOU with the samples (minimum Bayes risk decoding), shares are means, boxes are medians. It takes
tens of samples to know that expectation: with 8 the consensus was worse than the likeliest answer
on the ad world (decision 0007). Leaves out: sampling (see `sampling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from boig_core.vocabulary import TONES, Box, Description


def consensus(samples: Sequence[Description | None]) -> Description | None:
    """One description for several sampled ones; those that could not be parsed have no say, and
    None when that is all of them."""
    parsed = [sample for sample in samples if sample is not None]
    if not parsed:
        return None
    colors = best_names([sample.colors for sample in parsed])
    shares = {
        name: float(np.mean([s.colors[name] for s in parsed if name in s.colors]))
        for name in colors
    }
    # Each mean is over the samples that name its color, so that they need not sum to 1.
    whole = sum(shares.values()) or 1.0
    return Description(
        colors={name: round(share / whole, 2) for name, share in shares.items()},
        tones={
            tone: round(float(np.mean([s.tones.get(tone, 0.0) for s in parsed])), 2)
            for tone in TONES
        },
        objects={
            name: _median([s.objects[name] for s in parsed if name in s.objects])
            for name in best_names([s.objects for s in parsed])
        },
    )


def best_names(samples: Sequence[Collection[str]]) -> list[str]:
    """The set of names with the largest mean IOU with the samples' sets, grown greedily, the most
    frequent names first."""
    sets = [frozenset(sample) for sample in samples]
    # Of equal gains argmax takes the first: in this order that is the most frequent name, and never
    # one by the chance of a set's order.
    left = [
        name
        for name, _ in sorted(
            Counter(name for names in sets for name in names).items(),
            key=lambda item: (-item[1], item[0]),
        )
    ]
    chosen: set[str] = set()
    order: list[str] = []
    best = float(np.mean([not names for names in sets]))  # IOU of two empty sets is 1
    while left:
        gains = [
            float(np.mean([len(names & grown) / len(names | grown) for names in sets]))
            for grown in ({*chosen, n} for n in left)
        ]
        top = int(np.argmax(gains))
        if gains[top] <= best:
            break
        best = gains[top]
        order.append(left.pop(top))
        chosen.add(order[-1])
    return order


def _median(boxes: Sequence[Box]) -> Box:
    # A sample that puts the object elsewhere moves a mean, and hardly a median.
    x1, y1, x2, y2 = (float(edge) for edge in np.median(np.array(boxes, np.float64), axis=0))
    return x1, y1, x2, y2
