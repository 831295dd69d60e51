"""How fast DDPO is on this machine, by phase, beside what its UNet alone can do: the numbers that size a cluster.

Runs real epochs of a recipe in one process: the same sampler, scorer and learner, no Ray. The floor is the time that the epoch's forward
passes, its forward and backward passes and its decoding take by themselves, each measured alone at the recipe's own batch before and after
the epochs. What lies above it is this code's own: rewards, the optimizer, moving arrays. Leaves out: several devices, and how well the
weights learn. Shape letters: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.config import DDPO, Recipe
from boig_core.diffusion.ddim import predict
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.pipeline import Condition, decode, encode_prompts, latent_shape
from boig_core.diffusion.rollout import Chunk, Rollouts, Sampler, Scorer, epoch_steps
from boig_core.diffusion.trajectory import Trajectory
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

_REPEATS: Final = 3
"""Times that each part is measured alone, before the epochs and after them; the fastest counts, since it is a floor."""


@dataclass(frozen=True)
class Speed:
    """Seconds an epoch, as medians over epochs, and what the parts take alone.

    Attributes:
        images: of an epoch.
        sampling_s: denoising and decoding.
        reward_s: what the scorer takes.
        update_s: the policy updates.
        epoch_s: the whole epoch.
        forward_s: one forward pass of the UNet, guidance included, on ``ddpo.chunk`` images.
        backward_s: one forward and backward pass on ``ddpo.micro_batch`` images.
        decode_s: decoding of ``ddpo.chunk`` images.
        floor_s: what the epoch's passes and decoding take at these rates.
    """

    images: int
    sampling_s: float
    reward_s: float
    update_s: float
    epoch_s: float
    forward_s: float
    backward_s: float
    decode_s: float
    floor_s: float

    @property
    def images_per_s(self) -> float:
        """Images a second, sampled, scored and trained on."""
        return self.images / self.epoch_s

    @property
    def share_of_floor(self) -> float:
        """1 where nothing but the passes and the decoding took time."""
        return self.floor_s / self.epoch_s


@dataclass(frozen=True)
class Passes:
    """Calls of the UNet that an epoch makes: forward passes on a chunk, forward and backward passes on a micro-batch."""

    forward: int
    backward: int
    decoded: int


def passes(config: DDPO, trained_steps: int) -> Passes:
    """What an epoch of one learner asks of the models; an anchor's and recomputed log-probabilities' own passes lie above the floor."""
    images = config.prompts * config.images_per_prompt
    micro = config.updates * math.ceil(images // config.updates / config.micro_batch)
    chunks = images // config.chunk
    forward = chunks * (config.sampling_steps + (config.draws if config.forward_process else 0))
    return Passes(forward, config.inner_epochs * micro * trained_steps, chunks)


class _Timed(Rollouts):
    """`Rollouts` in this process that remember how long each phase of each epoch took."""

    def __init__(self, sampler: Sampler, scorer: Scorer) -> None:
        self.sampler, self.scorer = sampler, scorer
        self.sampling_s: list[float] = []
        self.reward_s: list[float] = []

    def collect(self, adapter: Adapter, chunks: Sequence[Chunk]) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """See `boig_core.diffusion.rollout.Rollouts`."""
        started = time.perf_counter()
        sampled = [self.sampler.rollout(adapter, chunk) for chunk in chunks]
        between = time.perf_counter()
        rewards = [self.scorer.score(found.images_BHWC, chunk.samples) for found, chunk in zip(sampled, chunks, strict=True)]
        self.sampling_s.append(between - started)
        self.reward_s.append(time.perf_counter() - between)
        return list(zip(sampled, rewards, strict=True))


def bench(recipe: Recipe, samples: Sequence[Sample], scorer: Scorer, epochs: int = 3) -> Speed:
    """Train for some epochs on this machine, after one that does not count; nothing is kept.

    Args:
        recipe: `sd.base` and `ddpo` are read; one learner, and rollouts in its process.
        samples: whose texts are the prompts.
        scorer: gives the rewards.
        epochs: that count.

    Raises:
        BoigError: whatever the base model, the sampler, the scorer or the learner raises.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ddpo = recipe.ddpo.model_copy(update={"epochs": epochs + 1, "checkpoint_every": epochs + 2, "workers": 1})
    recipe = recipe.model_copy(update={"ddpo": ddpo})
    timed, rows = _Timed(Sampler(recipe, device), scorer), list[dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="boig-bench-") as folder:
        learner = Learner(recipe, samples, timed, Checkpoints(folder, 1), lambda epoch, values: rows.append(values))
        before = _alone(learner, timed.sampler, samples)
        learner.fit()
        after = _alone(learner, timed.sampler, samples)
    forward_s, backward_s, decode_s = (min(pair) for pair in zip(before, after, strict=True))
    asked = passes(ddpo, len(epoch_steps(ddpo, recipe.seed, 0, ddpo.trained_steps)))

    def median(values: Sequence[float]) -> float:
        return float(np.median(values[1:]))

    return Speed(
        images=ddpo.prompts * ddpo.images_per_prompt,
        sampling_s=median(timed.sampling_s),
        reward_s=median(timed.reward_s),
        update_s=median([row["seconds_update"] for row in rows]),
        epoch_s=median([row["seconds_rollouts"] + row["seconds_update"] for row in rows]),
        forward_s=forward_s,
        backward_s=backward_s,
        decode_s=decode_s,
        floor_s=asked.forward * forward_s + asked.backward * backward_s + asked.decoded * decode_s,
    )


def _alone(learner: Learner, sampler: Sampler, samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Seconds of a forward pass, a forward and backward pass, and a decoding; the gradients are thrown away."""
    config = sampler.config

    def inputs(pipe: Any, count: int, device: torch.device) -> tuple[torch.Tensor, Condition, Condition | None]:
        texts = [samples[i % len(samples)].text for i in range(count)]
        blank = encode_prompts(pipe, [None]) if config.guidance > 1 else None
        return torch.randn((count, *latent_shape(pipe))).to(device), encode_prompts(pipe, texts), blank

    t = sampler.timesteps[0]
    latents_BCHW, condition, blank = inputs(sampler.pipe, config.chunk, sampler.device)
    trained_BCHW, trained, trained_blank = inputs(learner.pipe, config.micro_batch, learner.engine.device)

    @torch.no_grad()
    def forward() -> None:
        predict(sampler.pipe.unet, latents_BCHW, t, condition, blank, config.guidance)

    def backward() -> None:
        pred_BCHW = predict(learner.engine.module, trained_BCHW, t, trained, trained_blank, config.guidance)
        torch.autograd.backward(pred_BCHW.square().mean())
        learner.engine.module.zero_grad(set_to_none=True)

    return _fastest(forward), _fastest(backward), _fastest(lambda: decode(sampler.pipe, latents_BCHW))


def _fastest(part: Callable[[], Any]) -> float:
    part()
    found = []
    for _ in range(_REPEATS):
        _wait()
        started = time.perf_counter()
        part()
        _wait()
        found.append(time.perf_counter() - started)
    return min(found)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
