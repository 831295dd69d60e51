"""The paper's own figures for describing images, high / low KPI, to stand beside a run's.

They were measured on the paper's tweets and with spaCy's vectors, so they tell what to expect, not
what to beat. Leaves out: a run's own figures (see `description`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boig_core.llm.metrics import METRICS

_ROWS: Final = {
    "Fine-tuned without KPI": ".372/.336 .873/.860 .286/.222 .169/.181 .196/.234 .255/.274 .807/.805 .261/.242 .308/.295",
    "BoigLLM": ".407/.453 .890/.879 .280/.208 .151/.144 .172/.185 .273/.346 .812/.823 .251/.237 .305/.289",
    "GPT-4, 5 examples": ".244/.245 .791/.792 .270/.228 .186/.194 .294/.294 .101/.146 .614/.641 .311/.330 .378/.386",
    "GPT-3.5, 5 examples": ".214/.219 .770/.771 .274/.218 .198/.245 .324/.319 .101/.126 .646/.656 .316/.315 .362/.362",
}

PUBLISHED: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    model: {
        metric: (float(high), float(low))
        for metric, (high, low) in zip(
            METRICS, (pair.split("/") for pair in row.split()), strict=True
        )
    }
    for model, row in _ROWS.items()
}
"""Model to metric to its means on high-KPI and on low-KPI posts."""
