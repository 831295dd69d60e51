"""Chunks of one policy join in order; chunks of two policies never do."""

from dataclasses import replace

import numpy as np
import pytest

from boig_core.diffusion.trajectory import Trajectory, concatenate


def make(start: int, count: int) -> Trajectory:
    return Trajectory(
        epoch=2,
        version=5,
        checksum="c",
        timesteps_K=(800, 700),
        timesteps_prev_K=(700, 600),
        indices_B=np.arange(start, start + count),
        prompts_B=tuple(f"p{i}" for i in range(start, start + count)),
        latents_BSCHW=np.arange(start, start + count, dtype=np.float32).reshape(-1, 1, 1, 1, 1)
        * np.ones((1, 3, 4, 2, 2), np.float32),
        logprobs_old_BK=np.zeros((count, 2), np.float32),
        images_BHWC=np.zeros((count, 8, 8, 3), np.uint8),
        made_on_B=tuple(f"m{i}" for i in range(start, start + count)),
    )


def test_concatenate_and_take() -> None:
    whole = concatenate([make(0, 3), make(3, 2)])
    assert len(whole) == 5
    assert whole.prompts_B == ("p0", "p1", "p2", "p3", "p4")
    part = whole.take([4, 1], images=False)
    assert part.prompts_B == ("p4", "p1")
    assert part.indices_B.tolist() == [4, 1]
    assert part.made_on_B == ("m4", "m1")
    assert part.latents_BSCHW[:, 0, 0, 0, 0].tolist() == [4.0, 1.0]
    assert part.images_BHWC.shape[0] == 0


@pytest.mark.parametrize("change", [{"checksum": "d"}, {"epoch": 3}, {"timesteps_K": (900, 800)}])
def test_chunks_of_two_policies_do_not_join(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        concatenate([make(0, 2), replace(make(2, 2), **change)])  # type: ignore[arg-type]
