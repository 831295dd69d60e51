"""Does an image show what its prompt names? By perception, on which the reward stands: where it
cannot see, the reward means little.

Shape letters: N images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import Description, Sample


def named(
    descriptions: Sequence[Description], samples: Sequence[Sample], kinds: Sequence[str]
) -> NDArray[np.float64]:
    """Share of the kinds that a sample's text names which perception sees in its image (N); NaN
    where the text names none.

    On real images it is the naming accuracy of perception; on generated ones what is lost in
    drawing counts too.
    """
    shares = []
    for description, sample in zip(descriptions, samples, strict=True):
        asked = set(kinds) & set(re.findall(r"\w+", sample.text.lower()))
        # NaN and not 0: a text that names nothing says nothing about perception.
        shares.append(len(asked & set(description.objects)) / len(asked) if asked else np.nan)
    return np.array(shares, np.float64)


def mean_named(values_N: NDArray[np.float64]) -> float | None:
    """Mean over the images whose prompt names any; None without."""
    finite_N = values_N[np.isfinite(values_N)]
    return float(finite_N.mean()) if finite_N.size else None
