"""How far generated images are from real ones, as a set: KID and FID on given features, by
torchmetrics.

KID is unbiased at any number of images; FID falls with the number of images, so it is only compared
at the same n and beside the value that two sets of real images give. Leaves out: the features
(`judges.ClipJudge`). Shape letters: N images, F features.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

_SUBSETS: Final = 50
_LARGEST_SUBSET: Final = 1000


class _Given(torch.nn.Module):
    """Stands where torchmetrics expects a network: the features were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_NF: torch.Tensor) -> torch.Tensor:
        return features_NF


def kid(real_NF: NDArray[np.float64], fake_NF: NDArray[np.float64], seed: int) -> float:
    """Kernel inception distance (cubic polynomial kernel), mean over random subsets as large as the
    smaller set; at least 2 a side."""
    from torchmetrics.image.kid import KernelInceptionDistance

    # torchmetrics refuses subsets that are larger than either set.
    size = min(len(real_NF), len(fake_NF), _LARGEST_SUBSET)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # Torchmetrics warns that features are kept: a few MB here.
        warnings.simplefilter("ignore", UserWarning)
        # torchmetrics draws its subsets from torch's global generator: seeded here, and put back at
        # the end.
        torch.manual_seed(seed)
        return _compute(
            KernelInceptionDistance(
                feature=_Given(real_NF.shape[1]), subsets=_SUBSETS, subset_size=size
            ),
            real_NF,
            fake_NF,
        )


def fid(real_NF: NDArray[np.float64], fake_NF: NDArray[np.float64]) -> float:
    """Fréchet distance of two Gaussians fitted to the features, in float64; at least 2 a side."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _compute(FrechetInceptionDistance(feature=_Given(real_NF.shape[1])), real_NF, fake_NF)


def _compute(metric: Any, real_NF: NDArray[np.float64], fake_NF: NDArray[np.float64]) -> float:
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real_NF), real=True)
    metric.update(torch.from_numpy(fake_NF), real=False)
    value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)
