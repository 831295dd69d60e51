"""Likeness of an image to what BoigLLM itself expects under HIGH, by the paper's metrics.

It sees the description and no probability, so it cannot be raised by text that is merely easy to
predict; it cannot tell either how sure BoigLLM is of what it expects.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from boig_core.llm.metrics import HashedNgrams, PredictedPair, sample_metrics
from boig_core.rewards.evidence import RewardEvidence, require

_VECTORS: Final = HashedNgrams()
"""For the metrics that compare names by meaning, which are not among those below."""


def attribute_similarity(evidence: RewardEvidence) -> float:
    """Mean of colors IOU, objects IOU and 1 - tones RMSE, in [0, 1]; one that is undefined is left
    out, NaN when all of them are.

    An expectation that could not be parsed is empty: IOU 0, tones undefined.
    """
    # The bucket and the size 1 x 1 only fill places: none of the three metrics below looks at them.
    metrics = sample_metrics(
        PredictedPair("high", 1, 1, evidence.description, require(evidence.predicted)), _VECTORS
    )
    parts = np.array(
        [metrics["colors_iou"], metrics["objects_iou"], 1 - metrics["tones_coverage_rmse"]]
    )
    defined = parts[np.isfinite(parts)]
    return float(defined.mean()) if defined.size else float("nan")
