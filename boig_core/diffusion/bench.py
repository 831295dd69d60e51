"""How fast DDPO is on this machine, by phase, beside what its UNet alone can do and beside a plain
loop: the numbers that size a cluster.

Runs real epochs of a recipe: in one process, or where its rollouts are (`boig_core.cluster.bench`:
the recipe's pools on Ray). The floor is what the epoch's passes take by themselves on one device:
the forward passes of the sampling, on `ddpo.chunk` images, the forward and backward passes of the
updates, on `ddpo.micro_batch` images, and the decoding, by the same models in rank 0's process,
with all of the machine's cores where there is no GPU. What lies above it is rewards,
log-probabilities, the optimizer, text and moving arrays. The plain loop is `sequential`'s, with the
same passes on the same device. Epochs, floor and plain loop take turns, so that a machine that
slows down slows all three; each number is a median. Leaves out: how well the weights learn. Shape
letters: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from boig_core.config import DDPO, Recipe
from boig_core.diffusion.ddim import predict
from boig_core.diffusion.findings import Scorer
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.pipeline import Condition, decode, encode_prompts, latent_shape
from boig_core.diffusion.rollout import LocalRollouts, RolloutChunk, Rollouts, Sampler, epoch_steps
from boig_core.diffusion.sequential import Sequential
from boig_core.diffusion.trajectory import Trajectory
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

_REPEATS: Final = 3
"""Times that each part is measured alone after each epoch."""


@dataclass(frozen=True)
class Speed:
    """Seconds per epoch, as medians over epochs, and what the parts take alone.

    Attributes:
        images: of an epoch.
        rollouts_s: denoising, decoding and rewards, and their way to the learner.
        sampling_s: denoising and decoding alone; None where other processes sample, since rewards
            overlap it there.
        update_s: the policy updates.
        idle: shares of an epoch in which pools, or the learner, had nothing to do; empty in one
            process.
        epoch_s: the whole epoch.
        forward_s: one forward pass of the UNet, guidance included, on ``ddpo.chunk`` images.
        backward_s: one forward and backward pass on ``ddpo.micro_batch`` images.
        decode_s: decoding of ``ddpo.chunk`` images.
        floor_s: what the epoch's passes and decoding take at these rates.
        sequential_s: an epoch of `sequential.Sequential`; None for an objective that it has not.
    """

    images: int
    rollouts_s: float
    sampling_s: float | None
    update_s: float
    idle: Mapping[str, float]
    epoch_s: float
    forward_s: float
    backward_s: float
    decode_s: float
    floor_s: float
    sequential_s: float | None

    @property
    def images_per_s(self) -> float:
        """Images per second, sampled, scored and trained on."""
        return self.images / self.epoch_s

    @property
    def share_of_floor(self) -> float:
        """1 where nothing but the passes and the decoding took time."""
        return self.floor_s / self.epoch_s

    @property
    def times_sequential(self) -> float | None:
        """How many times as fast as `sequential.Sequential`."""
        return None if self.sequential_s is None else self.sequential_s / self.epoch_s


@dataclass(frozen=True)
class Passes:
    """Calls of the UNet that an epoch makes: forward passes on a chunk, forward and backward passes
    on a micro-batch."""

    forward: int
    backward: int
    decoded: int


def passes(config: DDPO, trained_steps: int) -> Passes:
    """What an epoch of one learner asks of the models; an anchor's and recomputed
    log-probabilities' own passes lie above the floor."""
    images = config.prompts * config.images_per_prompt
    # Each update is cut into micro-batches by itself, so it is each update that is rounded up.
    micro = config.updates * math.ceil(images // config.updates / config.micro_batch)
    chunks = images // config.chunk
    forward = chunks * (config.sampling_steps + (config.draws if config.forward_process else 0))
    return Passes(forward, config.inner_epochs * micro * trained_steps, chunks)


class _Timed(Sampler):
    """A sampler that knows how long it has sampled.

    Attributes:
        spent_s: seconds so far.
    """

    spent_s = 0.0

    def rollout(self, adapter: Adapter, chunk: RolloutChunk) -> Trajectory:
        """See `boig_core.diffusion.rollout.Sampler`."""
        started = time.perf_counter()
        trajectory = super().rollout(adapter, chunk)
        self.spent_s += time.perf_counter() - started
        return trajectory


def measured(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe for so many epochs after one that does not count, each begun when the one before
    has ended, and only trained."""
    update = {
        "epochs": epochs + 1,
        # Past the end: the one checkpoint is that of the last epoch, after its row.
        "checkpoint_every": epochs + 2,
        "probe_every": None,
        "ahead": False,
    }
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=update)})


def bench(
    recipe: Recipe,
    samples: Sequence[Sample],
    scorer: Scorer,
    folder: str,
    rollouts: Rollouts | None = None,
    spent: Callable[[float], Mapping[str, float]] | None = None,
) -> Speed:
    """Train on this machine and measure, as rank 0.

    Args:
        recipe: as `measured` gives it.
        samples: whose texts are the prompts.
        scorer: gives the rewards: the plain loop's, and all where this process samples.
        folder: for checkpoints, the same for all ranks.
        rollouts: where experience comes from; None: this process samples and scores.
        spent: idle shares of the last so many seconds, by name.

    Raises:
        BoigError: whatever the base model, the rollouts, the scorer or the learner raises.
    """
    ddpo, device = recipe.ddpo, "cuda" if torch.cuda.is_available() else "cpu"
    sampler = _Timed(recipe, device)
    # A model of its own, since the plain loop trains it.
    plain = (
        None
        if ddpo.forward_process
        else Sequential(recipe, Sampler(recipe, device).pipe, samples, scorer)
    )
    rows, alone, sequential_s = (
        list[dict[str, float]](),
        list[tuple[float, float, float]](),
        list[float](),
    )

    def turn(epoch: int, row: dict[str, float]) -> None:
        epoch_s = row["seconds_rollouts"] + row["seconds_update"]
        idle = (
            {**spent(epoch_s), "idle_learner": row["seconds_rollouts"] / epoch_s}
            if spent is not None
            else {}
        )
        rows.append({**row, **idle, "seconds_sampling": sampler.spent_s, "seconds": epoch_s})
        with _all_cores():
            alone.append(_alone(learner, sampler, samples))
            if plain is not None:
                sequential_s.append(_seconds(lambda: plain.epoch(epoch)))
        sampler.spent_s = 0.0

    learner = Learner(
        recipe, samples, rollouts or LocalRollouts(sampler, scorer), Checkpoints(folder, 1), turn
    )
    learner.fit()
    return _speed(recipe, rows, alone, sequential_s, sampled_here=rollouts is None)


def _speed(
    recipe: Recipe,
    rows: Sequence[Mapping[str, float]],
    alone: Sequence[tuple[float, float, float]],
    sequential_s: Sequence[float],
    sampled_here: bool,
) -> Speed:
    """Medians over the epochs that were measured.

    Args:
        recipe: what was run.
        rows: of each epoch.
        alone: seconds of a forward pass, a forward and backward pass, and a decoding, beside each.
        sequential_s: seconds of an epoch of the plain loop; empty where there is none.
        sampled_here: whether this process sampled, so that it knows how long that took.
    """
    ddpo = recipe.ddpo
    median = {name: _median([row[name] for row in rows]) for name in rows[0]}
    forward_s, backward_s, decode_s = (_median(values) for values in zip(*alone, strict=True))
    asked = passes(ddpo, len(epoch_steps(ddpo, recipe.seed, 0, ddpo.trained_steps)))
    return Speed(
        images=ddpo.prompts * ddpo.images_per_prompt,
        rollouts_s=median["seconds_rollouts"],
        sampling_s=median["seconds_sampling"] if sampled_here else None,
        update_s=median["seconds_update"],
        idle={name: value for name, value in median.items() if name.startswith("idle_")},
        epoch_s=median["seconds"],
        forward_s=forward_s,
        backward_s=backward_s,
        decode_s=decode_s,
        floor_s=asked.forward * forward_s + asked.backward * backward_s + asked.decoded * decode_s,
        sequential_s=_median(sequential_s) if sequential_s else None,
    )


@contextmanager
def _all_cores() -> Iterator[None]:
    """What is measured alone has the machine alone, whatever the share of this rank."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _median(epochs: Sequence[float]) -> float:
    """Of all epochs but the first, which does not count."""
    return float(np.median(epochs[1:]))


def _alone(
    learner: Learner, sampler: Sampler, samples: Sequence[Sample]
) -> tuple[float, float, float]:
    """Seconds of a forward pass, a forward and backward pass, and a decoding; the gradients are
    thrown away."""
    config = sampler.config

    def inputs(
        pipe: Any, count: int, device: torch.device
    ) -> tuple[torch.Tensor, Condition, Condition | None]:
        texts = [samples[i % len(samples)].text for i in range(count)]
        blank = encode_prompts(pipe, [None]) if config.guidance > 1 else None
        return (
            torch.randn((count, *latent_shape(pipe))).to(device),
            encode_prompts(pipe, texts),
            blank,
        )

    t = sampler.timesteps[0]
    latents_BCHW, condition, blank = inputs(sampler.pipe, config.chunk, sampler.device)
    trained_BCHW, trained, trained_blank = inputs(
        learner.pipe, config.micro_batch, learner.engine.device
    )

    @torch.inference_mode()
    def forward() -> None:
        predict(sampler.pipe.unet, latents_BCHW, t, condition, blank, config.guidance)

    def backward() -> None:
        pred_BCHW = predict(
            learner.engine.module, trained_BCHW, t, trained, trained_blank, config.guidance
        )
        torch.autograd.backward(pred_BCHW.square().mean())
        learner.engine.module.zero_grad(set_to_none=True)

    return (
        _typical(forward),
        _typical(backward),
        _typical(lambda: decode(sampler.pipe, latents_BCHW)),
    )


def _typical(part: Callable[[], Any]) -> float:
    # A first call allocates memory and chooses kernels, so it does not count.
    part()
    return float(np.median([_seconds(part) for _ in range(_REPEATS)]))


def _seconds(part: Callable[[], Any]) -> float:
    # A GPU runs behind the calls: without a wait on both sides only launches would be timed.
    _wait()
    started = time.perf_counter()
    part()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
