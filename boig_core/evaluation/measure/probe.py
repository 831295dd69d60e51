"""The probe: how a policy does, while it trains, on held-out prompts and noise that are the same
every time.

Its numbers stand in the rows of the epochs that it looks at, where monitors and the choice of the
best epoch read them. It samples as the training does, on the same actors. The prompts are the
validation split's and the CLIP is the perception's: prompts and judges of `generation` take no
part. A reward may read that CLIP too, so that a margin which falls says more than one which stays.
Leaves out: when it looks (`boig_core.diffusion.learner`) and what follows
(`boig_core.training.monitors`). Shape letters: B images of a chunk, N all images, P prompts, K
images per prompt, D width of the CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.diffusion.findings import Findings, Scorer, examine
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.errors import InputError
from boig_core.evaluation.measure.judges import ClipJudge, clip_scores, diversity
from boig_core.observability.logs import get_logger
from boig_core.vocabulary import Sample

if TYPE_CHECKING:  # a reward actor opens `ProbeScorer`, and samples nothing
    from boig_core.diffusion.lora import Adapter
    from boig_core.diffusion.rollout import RolloutChunk

log = get_logger(__name__)

PROMPTS: Final = 16
PER_PROMPT: Final = 4
_STREAM: Final = 7_302  # of prompts, beside that of `sampling_plan`
_EPOCH: Final = 2**32 - 1
"""Stands for an epoch that no training reaches, so that its noise is its own."""
_IMAGE: Final = "image_embedding"
_TEXT: Final = "text_embedding"


class Examines(Protocol):
    """What the probe asks of `boig_core.diffusion.rollout.LocalRollouts` or its like on Ray."""

    def examine(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> Sequence[tuple[Trajectory, Findings]]:
        """Trajectory and findings of each chunk under the policy with this adapter, in the order of
        ``chunks``."""
        ...


class ProbeScorer:
    """A scorer that also gives embeddings of images and prompts, where the probe asks; a
    `boig_core.diffusion.findings.Examiner`."""

    def __init__(self, scorer: Scorer, clip: ClipJudge) -> None:
        self._scorer, self._clip = scorer, clip

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """The scorer's rewards."""
        return self._scorer.score(images, samples)

    def examine(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> Findings:
        """What the scorer says, and unit vectors (B, D) of images and of their prompts."""
        embeddings = {
            _IMAGE: self._clip.see(images).embedding_ND,
            _TEXT: self._clip.read([sample.text for sample in samples]),
        }
        return {**examine(self._scorer, images, samples), **embeddings}


@dataclass(frozen=True)
class ProbeResult:
    """One look at a policy.

    Attributes:
        metrics: for the epoch's row; each name begins with ``probe_``.
        by_prompt: ``prompt`` and the means of its images: ``reward`` and whatever else is measured
            image by image.
        images_PKHWC: uint8 RGB, in the order of ``by_prompt``.
    """

    metrics: dict[str, float]
    by_prompt: list[dict[str, str | float]]
    images_PKHWC: NDArray[np.uint8]


class Probe:
    """Looks at policies.

    Args:
        recipe: its `ddpo` says how images are sampled.
        samples: of all splits; the prompts are those of HIGH samples of the validation split.
        rollouts: sample and measure.
        show: called with the epoch and each look: for people.

    Raises:
        InputError: fewer than two distinct prompts.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        rollouts: Examines,
        show: Callable[[int, ProbeResult], None],
    ) -> None:
        from boig_core.diffusion.rollout import RolloutChunk, epoch_window

        self._samples = draw_prompts(samples, recipe.seed)
        owners = [sample for sample in self._samples for _ in range(PER_PROMPT)]
        # That of the first epoch for all looks: where noise is added changes the images, and looks
        # must differ by the policy alone.
        window = epoch_window(recipe.ddpo, recipe.seed, 0)
        self._chunks = []
        # In chunks of the training's size, the unit whose bits do not depend on the number of
        # actors.
        for start in range(0, len(owners), recipe.ddpo.chunk):
            part = tuple(owners[start : start + recipe.ddpo.chunk])
            self._chunks.append(
                RolloutChunk(_EPOCH, tuple(range(start, start + len(part))), part, window)
            )
        self._rollouts, self._show = rollouts, show

    def __call__(self, epoch: int, adapter: Adapter) -> dict[str, float]:
        """Look at a policy: metrics for the row of the epoch that begins with it. The same adapter
        gives the same numbers."""
        examined = self._rollouts.examine(adapter, self._chunks)
        measured = {
            name: np.concatenate([findings[name] for _, findings in examined])
            for name in examined[0][1]
        }
        look = self._look(
            concatenate([trajectory for trajectory, _ in examined]).images_BHWC, measured
        )
        self._show(epoch, look)
        return look.metrics

    def _look(
        self, images_NHWC: NDArray[np.uint8], measured: dict[str, NDArray[np.float64]]
    ) -> ProbeResult:
        prompts = len(self._samples)
        # Embeddings have a second dimension, and are no measures of one image.
        values = {name: of_N for name, of_N in measured.items() if of_N.ndim == 1}
        metrics = {
            key: value
            for name, of_N in values.items()
            # Spreads too: a monitor measures a fall in spreads of the first probe.
            for key, value in ((name, of_N.mean()), (f"{name}_std", of_N.std()))
        }
        if _IMAGE in measured:
            # The scorer embeds a prompt once per image; one copy of each is enough.
            image_ND, text_PD = measured[_IMAGE], measured[_TEXT][::PER_PROMPT]
            matched_N, mismatched_N = clip_scores(
                image_ND, text_PD, np.repeat(np.arange(prompts), PER_PROMPT)
            )
            values["clip_margin"] = matched_N - mismatched_N
            metrics |= {"clip": matched_N.mean(), "clip_margin": values["clip_margin"].mean()}
            metrics["diversity"] = diversity(image_ND.reshape(prompts, PER_PROMPT, -1))
        means = {
            name: of_N.reshape(prompts, PER_PROMPT).mean(axis=1) for name, of_N in values.items()
        }
        return ProbeResult(
            {f"probe_{name}": float(value) for name, value in metrics.items()},
            [
                {"prompt": s.text, **{name: float(of_P[i]) for name, of_P in means.items()}}
                for i, s in enumerate(self._samples)
            ],
            images_NHWC.reshape(prompts, PER_PROMPT, *images_NHWC.shape[1:]),
        )


def draw_prompts(samples: Sequence[Sample], seed: int) -> tuple[Sample, ...]:
    """Samples of `PROMPTS` distinct texts among the HIGH ones of the validation split, drawn by the
    seed; all where there are fewer.

    Raises:
        InputError: fewer than two of them.
    """
    candidates = sorted(
        (sample for sample in samples if sample.split == "validation" and sample.bucket == "high"),
        key=lambda s: s.id,
    )
    # One sample per text: with the same text twice, a margin over the other prompts would count the
    # own one.
    candidates = sorted({sample.text: sample for sample in candidates}.values(), key=lambda s: s.id)
    if len(candidates) < 2:
        remedy = "ingest more posts, or set ddpo.probe_every to null"
        raise InputError(
            f"{len(candidates)} distinct prompts of HIGH validation samples",
            "must be at least 2",
            remedy,
        )
    if len(candidates) < PROMPTS:
        log.warning(
            "the validation split has %d distinct HIGH prompts, fewer than the %d of a probe",
            len(candidates),
            PROMPTS,
        )
    order = np.random.default_rng((seed, _STREAM)).permutation(len(candidates))[:PROMPTS]
    return tuple(candidates[index] for index in sorted(order))
