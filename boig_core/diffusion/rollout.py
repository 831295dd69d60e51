"""Rollouts: which prompts, steps and noise an epoch uses (pure functions of the seed), and the
sampling of one chunk.

The unit of work is a chunk of fixed size. Its noise is drawn on the CPU from (seed, epoch, index),
so a chunk gives the same bits whoever samples it, and again when it is redone (same hardware,
threads and versions). Outside a window of a few early steps the sampling is deterministic: only the
window is stochastic and trained on. For the forward process all of it is deterministic, and the
final latents are trained on. Leaves out: where chunks run (`boig_core.cluster.rollouts`) and the
update (`learner`). Shape letters: B images, K trained steps, S = K + 1, C channels, H height, W
width.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.config import DDPO, Recipe
from boig_core.diffusion.ddim import ddim_step, predict, schedule
from boig_core.diffusion.findings import Findings, Scorer, examine
from boig_core.diffusion.lora import Adapter, make_trainable, write_adapter
from boig_core.diffusion.pipeline import Condition, Prompts, decode, latent_shape, load_base
from boig_core.diffusion.scoring import draw_matching
from boig_core.diffusion.trajectory import Trajectory
from boig_core.vocabulary import Sample

T = TypeVar("T")

# Streams of random numbers: a first key keeps noise, window and prompts independent of each other.
# 4, 5, 6 and 9 are taken by other files of this folder: one number in two places would draw the
# same values twice.
_NOISE: Final = 1
_WINDOW: Final = 2
_PROMPTS: Final = 3
_STEPS: Final = 8


@dataclass(frozen=True)
class RolloutChunk:
    """The unit of work: some images of an epoch.

    Attributes:
        epoch: epoch.
        indices: index of each image in the epoch.
        samples: sample of each image: its text is the prompt, and the reward reads the rest.
        window: first trained step and one past the last.
    """

    epoch: int
    indices: tuple[int, ...]
    samples: tuple[Sample, ...]
    window: tuple[int, int]


class Rollouts(Protocol):
    """Where experience comes from.

    One call an epoch with everything it needs, so that an implementation may sample and score
    chunks in any order, on any number of machines, and redo what fails; what it returns is in the
    order of ``chunks``.
    """

    def collect(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """Trajectory and rewards of each chunk under the policy with this adapter."""
        ...

    def begin(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> Callable[[], list[tuple[Trajectory, NDArray[np.float64]]]]:
        """Ask for what `collect` gives; the function that comes back waits for it, and raises what
        `collect` raises.

        Nothing is sampled before that is called, unless an implementation has other processes for
        it.
        """
        return functools.partial(self.collect, adapter, chunks)


def epoch_samples(samples: Sequence[Sample], seed: int, epoch: int, count: int) -> list[Sample]:
    """The epoch's prompts: shuffled passes over all samples, cut into epochs; a function of seed
    and epoch alone."""
    order: dict[int, NDArray[np.int64]] = {}
    chosen = []
    for position in range(epoch * count, (epoch + 1) * count):
        passed, place = divmod(position, len(samples))
        if passed not in order:
            order[passed] = np.random.default_rng((_PROMPTS, seed, passed)).permutation(
                len(samples)
            )
        chosen.append(samples[order[passed][place]])
    return chosen


def epoch_window(config: DDPO, seed: int, epoch: int) -> tuple[int, int]:
    """Stochastic and trained steps of an epoch: first, and one past the last.

    Without a window every step but the last, whose noise has no variance; none at all for the
    forward process.
    """
    if config.forward_process:
        return config.sampling_steps, config.sampling_steps
    if config.window is None:
        return 0, config.sampling_steps - 1
    # A small share of few steps rounds down to none, and must hold a window of one nevertheless.
    # The last step is in no window: it may have no noise.
    span = min(
        max(config.window, int(config.window_span * config.sampling_steps)),
        config.sampling_steps - 1,
    )
    first = int(np.random.default_rng((_WINDOW, seed, epoch)).integers(0, span - config.window + 1))
    return first, first + config.window


def epoch_steps(config: DDPO, seed: int, epoch: int, stochastic: int) -> list[int]:
    """Which of an epoch's so many stochastic steps or draws are trained on, as falling in time: a
    function of seed and epoch alone."""
    count = max(1, round(config.timestep_fraction * stochastic))
    return sorted(
        np.random.default_rng((_STEPS, seed, epoch)).permutation(stochastic)[:count].tolist()
    )


def epoch_chunks(
    config: DDPO, samples: Sequence[Sample], seed: int, epoch: int
) -> list[RolloutChunk]:
    """The epoch's work: each prompt ``images_per_prompt`` times in a row, cut into chunks."""
    per_image = [
        s
        for s in epoch_samples(samples, seed, epoch, config.prompts)
        for _ in range(config.images_per_prompt)
    ]
    # One window for all: `trajectory.concatenate` joins chunks of the same trained steps alone.
    window = epoch_window(config, seed, epoch)
    return [
        RolloutChunk(
            epoch,
            tuple(range(start, start + config.chunk)),
            tuple(per_image[start : start + config.chunk]),
            window,
        )
        for start in range(0, len(per_image), config.chunk)
    ]


def draw_noise(
    seed: int, epoch: int, index: int, count: int, shape: tuple[int, int, int]
) -> torch.Tensor:
    """Standard normal ``noise_SCHW`` of one image: its start, then one for each stochastic step;
    always from the CPU."""
    # torch takes one number as a seed. A hash of all four keeps neighboring images and epochs
    # apart, where a sum would give some of them the same noise.
    key = np.random.SeedSequence((_NOISE, seed, epoch, index)).generate_state(1, np.uint64)[0]
    generator = torch.Generator("cpu").manual_seed(int(key >> np.uint64(1)))
    return torch.randn((count, *shape), generator=generator)


def made_on(unet: Any) -> str:
    """What decides the last bits of a prediction: dtype, device and library, in words."""
    device = (
        torch.cuda.get_device_name(unet.device)
        if unet.device.type == "cuda"
        else f"{unet.device.type}, {platform.machine()}"
    )
    return f"{str(unet.dtype).removeprefix('torch.')} on {device}, torch {torch.__version__}"


class Sampler:
    """Samples chunks with one copy of the pipeline.

    Args:
        recipe: names the base model and the settings of the sampling.
        device: where the model runs.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.config, self.seed, self.device = recipe.ddpo, recipe.seed, torch.device(device)
        self.pipe: Any = load_base(recipe.sd).to(self.device)
        make_trainable(self.pipe.unet, self.config.lora_rank, self.seed)
        self._condition = Prompts(self.pipe)
        self._checksum: str | None = None
        self.timesteps, self.timesteps_prev, self.alphas_T1 = schedule(
            self.pipe, self.config.sampling_steps
        )

    def load(self, adapter: Adapter) -> None:
        """Use these weights from now on.

        Raises:
            ValueError: weights and checksum differ.
        """
        if adapter.checksum != self._checksum:
            # Forgotten first: a write that fails halfway must not pass for the weights before it.
            self._checksum = None
            write_adapter(self.pipe.unet, adapter)
            self._checksum = adapter.checksum

    @torch.inference_mode()
    def rollout(self, adapter: Adapter, chunk: RolloutChunk) -> Trajectory:
        """Sample one chunk; the same bits for the same adapter and chunk."""
        self.load(adapter)
        first, end = chunk.window
        latents_BCHW, noise_BKCHW = self._noise(chunk)
        prompts = tuple(sample.text for sample in chunk.samples)
        condition = self._condition(prompts)
        blank = self._condition([None]) if self.config.guidance > 1 else None
        prediction = self.pipe.scheduler.config.prediction_type
        kept, logprobs = [], []
        for step, (t, t_prev) in enumerate(zip(self.timesteps, self.timesteps_prev, strict=True)):
            pred_BCHW = predict(
                self.pipe.unet, latents_BCHW, t, condition, blank, self.config.guidance
            )
            # In float32 whatever the UNet computes in: the learner scores the very numbers that the
            # step was taken with.
            if first <= step < end:
                kept.append(latents_BCHW)
                latents_BCHW, logprob_B = ddim_step(
                    pred_BCHW,
                    latents_BCHW,
                    t,
                    t_prev,
                    self.alphas_T1,
                    self.config.eta,
                    prediction=prediction,
                    reduction=self.config.logprob,
                    noise_BCHW=noise_BKCHW[:, step - first],
                )
                logprobs.append(logprob_B)
                if step == end - 1:
                    kept.append(latents_BCHW)
            else:
                latents_BCHW, _ = ddim_step(
                    pred_BCHW, latents_BCHW, t, t_prev, self.alphas_T1, 0.0, prediction=prediction
                )
        if self.config.forward_process:
            kept.append(latents_BCHW)
            logprobs += self._matched(chunk, latents_BCHW, condition)
        return Trajectory(
            epoch=chunk.epoch,
            version=adapter.version,
            checksum=adapter.checksum,
            timesteps_K=tuple(self.timesteps[first:end]),
            timesteps_prev_K=tuple(self.timesteps_prev[first:end]),
            indices_B=np.array(chunk.indices, dtype=np.int64),
            prompts_B=prompts,
            latents_BSCHW=torch.stack(kept, dim=1).cpu().numpy(),
            logprobs_old_BK=torch.stack(
                [logprob for logprob in logprobs if logprob is not None], dim=1
            )
            .cpu()
            .numpy(),
            images_BHWC=decode(self.pipe, latents_BCHW),
            made_on_B=(made_on(self.pipe.unet),) * len(chunk.indices),
        )

    def _noise(self, chunk: RolloutChunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each image starts (B, C, H, W), and the noise of its K stochastic steps."""
        first, end = chunk.window
        shape = latent_shape(self.pipe)
        noise_BSCHW = torch.stack(
            [draw_noise(self.seed, chunk.epoch, i, 1 + end - first, shape) for i in chunk.indices]
        ).to(self.device)
        start_BCHW = noise_BSCHW[:, 0]
        if self.config.shared_noise:
            # A group may lie in several chunks, so each image draws its group's start by the key of
            # the group's first image.
            firsts = [i - i % self.config.images_per_prompt for i in chunk.indices]
            start_BCHW = torch.stack(
                [draw_noise(self.seed, chunk.epoch, i, 1, shape)[0] for i in firsts]
            ).to(self.device)
        return start_BCHW, noise_BSCHW[:, 1:]

    def _matched(
        self, chunk: RolloutChunk, clean_BCHW: torch.Tensor, condition: Condition
    ) -> list[torch.Tensor]:
        """Log-probabilities (B) of each draw of the forward process from the final latents."""
        draws = (
            draw_matching(
                self.config,
                self.seed,
                chunk.epoch,
                chunk.indices,
                k,
                clean_BCHW,
                self.alphas_T1,
                self.pipe.scheduler.config.prediction_type,
            )
            for k in range(self.config.draws)
        )
        return [
            draw.logprob(predict(self.pipe.unet, draw.sample_BCHW, draw.t, condition))
            for draw in draws
        ]


class LocalRollouts(Rollouts):
    """`Rollouts` in this process, one chunk after the other."""

    def __init__(self, sampler: Sampler, scorer: Scorer) -> None:
        self.sampler, self.scorer = sampler, scorer

    def collect(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """See `Rollouts`."""
        return self._each(adapter, chunks, self.scorer.score)

    def examine(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, Findings]]:
        """As `collect`, with all that the scorer can say in place of the rewards."""
        return self._each(adapter, chunks, functools.partial(examine, self.scorer))

    def _each(
        self,
        adapter: Adapter,
        chunks: Sequence[RolloutChunk],
        ask: Callable[[NDArray[np.uint8], Sequence[Sample]], T],
    ) -> list[tuple[Trajectory, T]]:
        results = []
        for chunk in chunks:
            trajectory = self.sampler.rollout(adapter, chunk)
            results.append((trajectory, ask(trajectory.images_BHWC, chunk.samples)))
        return results
