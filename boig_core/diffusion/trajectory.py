"""What a rollout leaves behind: the trained window of the denoising or the final latents, the
image, and which policy made it.

Numpy alone, so that it travels between processes without a copy and without torch. Leaves out
rewards, which arrive later. Shape letters: B images, K trained steps, S = K + 1 latents around
them, C channels, H height, W width (latents or pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InfrastructureError


@dataclass(frozen=True)
class Trajectory:
    """Rollouts of one chunk, or of several put together.

    Attributes:
        epoch: epoch they belong to.
        version: version of the policy's weights.
        checksum: SHA-256 of the policy's trainable weights.
        timesteps_K: timesteps of the trained steps, falling; empty for the forward process, whose
            draws each image has for itself.
        timesteps_prev_K: timesteps that they lead to; empty for the forward process.
        indices_B: index of each image in its epoch: with recipe seed and epoch it fixes the noise.
        prompts_B: prompt texts.
        latents_BSCHW: float32 x_t of the trained steps, and the x_{t-1} of the last; for the
            forward process x_0 alone, S = 1.
        logprobs_old_BK: float32 log-probabilities, or minus the matching losses, under the policy
            that sampled.
        images_BHWC: uint8 RGB.
        made_on_B: dtype, device and library that sampled each image.
    """

    epoch: int
    version: int
    checksum: str
    timesteps_K: tuple[int, ...]
    timesteps_prev_K: tuple[int, ...]
    indices_B: NDArray[np.int64]
    prompts_B: tuple[str, ...]
    latents_BSCHW: NDArray[np.float32]
    logprobs_old_BK: NDArray[np.float32]
    images_BHWC: NDArray[np.uint8]
    made_on_B: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts_B)

    def require(self, version: int, checksum: str) -> None:
        """See that a policy made it.

        Raises:
            InfrastructureError: another did, by what it carries.
        """
        if (self.version, self.checksum) != (version, checksum):
            present, asked = (
                f"version {v}, checksum {c[:12]}"
                for v, c in ((self.version, self.checksum), (version, checksum))
            )
            raise InfrastructureError(
                f"rollouts of epoch {self.epoch} by {present}",
                f"must be by {asked}",
                "start the stage again",
            )

    def take(self, rows: Sequence[int], *, images: bool = True) -> Trajectory:
        """Some of the images, in the order of ``rows``; ``images=False`` leaves the pixels out,
        which training has no use for."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            indices_B=self.indices_B[index],
            prompts_B=tuple(self.prompts_B[row] for row in rows),
            latents_BSCHW=self.latents_BSCHW[index],
            logprobs_old_BK=self.logprobs_old_BK[index],
            images_BHWC=self.images_BHWC[index] if images else self.images_BHWC[:0],
            made_on_B=tuple(self.made_on_B[row] for row in rows),
        )


def concatenate(parts: Sequence[Trajectory]) -> Trajectory:
    """Put chunks of one epoch and one policy together, in the order given.

    Raises:
        ValueError: chunks of different epochs, windows or policies: on-policy training must never
            mix them.
    """
    first = parts[0]
    # What has no axis of images must agree. Names tell, so a new field needs no entry here.
    # Machines may differ: `made_on_B` is per image.
    scalars = [f.name for f in fields(first) if not f.name.rsplit("_", 1)[-1].startswith("B")]
    for part in parts[1:]:
        for field in scalars:
            if getattr(part, field) != getattr(first, field):
                raise ValueError(
                    f"chunks differ in {field}: {getattr(part, field)} and {getattr(first, field)}"
                )
    return replace(
        first,
        indices_B=np.concatenate([p.indices_B for p in parts]),
        prompts_B=tuple(prompt for p in parts for prompt in p.prompts_B),
        latents_BSCHW=np.concatenate([p.latents_BSCHW for p in parts]),
        logprobs_old_BK=np.concatenate([p.logprobs_old_BK for p in parts]),
        images_BHWC=np.concatenate([p.images_BHWC for p in parts]),
        made_on_B=tuple(made_on for p in parts for made_on in p.made_on_B),
    )
