"""The reward's formulations: each takes one answer's token log-probabilities under HIGH and under LOW and gives one number.

Which of them DDPO maximises is `recipe.reward.name`; how well each tells high from low is measured by the stage ``calibrate``.
Imports neither torch nor a model; see `boig_core.rewards.scorer` for the way from pixels to log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.rewards.contrast import contrast
from boig_core.rewards.dsg import dsg
from boig_core.rewards.mean_logprob import mean_logprob

Formulation = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

REWARDS: Final[Mapping[str, Formulation]] = {"contrast": contrast, "mean_logprob": mean_logprob, "dsg": dsg}
