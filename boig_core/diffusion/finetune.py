"""The high-KPI baseline: ordinary diffusion training on the images of high-KPI posts alone.

Epsilon or v is predicted from noised latents under the post's text; text encoders and autoencoder
stay as they are. Each step's images, noise and timesteps are pure functions of (seed, step), so a
resumed run continues as if never stopped and any number of ranks makes the same steps. Runs under
Ray Train, ``torchrun`` and one plain process. Leaves out: reading the dataset. Shape letters: B
images of this rank, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.config import SD, Recipe
from boig_core.diffusion.ddim import predict
from boig_core.diffusion.lora import Adapter, engine_dtype, make_trainable, read_adapter
from boig_core.diffusion.pipeline import encode_images, encode_prompts, load_base, text_encoders
from boig_core.diffusion.prompt_cuts import PromptCuts, count_cuts, limited_tokenizers
from boig_core.diffusion.rehearsal import rehearse
from boig_core.errors import InputError, RecipeError
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Steps, progress_log
from boig_core.storage.job import Stage
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig
from boig_core.training.ranks import rank, world_size
from boig_core.training.work import Work, digest, work_of

CAPTION_DROPOUT: Final = 0.1
"""Share of the images trained without their text, which classifier-free guidance needs."""
_ORDER: Final = 5  # streams of random numbers, beside those of `rollout` and `learner`
_NOISE: Final = 6
_REPORT_EVERY: Final = 10
_ZERO_SNR: Final = (
    "the schedule of %s has zero terminal SNR, and by sd.min_snr = %s alone its last timesteps would"
    " weigh nothing: an SNR below 1 counts as 1"
)
log = get_logger(__name__)


@dataclass(frozen=True)
class ImageExamples:
    """What is trained on: uint8 RGB ``images_BHWC`` at the recipe's resolution, the text of each,
    and, where texts are to be told apart for people, their names."""

    images_BHWC: NDArray[np.uint8]
    texts_B: Sequence[str]
    names_B: Sequence[str] = ()


def finetune(
    recipe: Recipe,
    examples: ImageExamples,
    checkpoints: Checkpoints,
    report: Callable[[int, dict[str, float]], None],
    counted: Callable[[PromptCuts], None] = lambda _: None,
) -> Adapter:
    """Train from the newest checkpoint, or the start, to the last step; every rank calls it, and
    gets the trained weights.

    Args:
        recipe: the section `sd` is read.
        examples: the same on every rank.
        checkpoints: where the state goes.
        report: called by rank 0 with the step and its metrics.
        counted: called by rank 0 before the first step with how many texts are cut.

    Raises:
        InputError: no examples.
        RecipeError: the batch does not divide by the number of ranks, or a base model whose images
            have another side.
    """
    config = recipe.sd
    _check(config, examples)
    pipe: Any = load_base(config)
    # Without the final alpha, which belongs to no timestep that is trained on.
    alphas_T = pipe.scheduler.alphas_cumprod.float()
    if rank() == 0 and config.min_snr is not None and float(alphas_T[-1]) == 0.0:
        log.warning(_ZERO_SNR, config.base, config.min_snr)
    engine = _engine(pipe, config, recipe.seed)
    # Once for all steps, since the autoencoder is frozen; after the engine, whose device it needs.
    latents_NCHW = encode_images(pipe, examples.images_BHWC)
    alphas_T = alphas_T.to(engine.device)
    restored = checkpoints.restore(engine, _work(recipe, examples))
    first = restored.step if restored else 0
    if rank() == 0:
        counted(_count_cuts(pipe, examples))
        # What a checkpoint came of has been rehearsed.
        if restored is None:
            rehearse(pipe, config.base)
    progress = Steps(config.steps, first, config.batch, "images", progress_log())
    for step in range(first, config.steps):
        started = time.monotonic()
        rows = step_rows(len(examples.texts_B), config.batch, recipe.seed, step)
        # Equal shares (`_check`), so that the mean over ranks is the mean over the batch.
        mine = rows[rank() :: world_size()]
        terms = (engine, pipe, latents_NCHW, alphas_T, examples.texts_B, mine, recipe.seed, step)
        info = engine.step([functools.partial(_loss, *terms, config.min_snr)])
        if rank() == 0:
            progress.made(step + 1, info.loss)
            if step % _REPORT_EVERY == 0 or step + 1 == config.steps:
                row = {"loss": info.loss, "grad_norm": info.grad_norm, "lr": info.lr}
                report(step, {**row, "images_per_s": config.batch / (time.monotonic() - started)})
        # The same on every rank, `leaving` included: `save` is a collective.
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps or engine.leaving:
            checkpoints.save(engine, step + 1)
        if engine.leaving:
            checkpoints.leave()
    checkpoints.wait()
    return read_adapter(engine.module, engine.steps_done)


def _work(recipe: Recipe, examples: ImageExamples) -> Work:
    """What is trained on what, by which checkpoints are known."""

    def data() -> str:
        images = (image.tobytes() for image in examples.images_BHWC)
        return digest(itertools.chain(images, examples.texts_B))

    return work_of(Stage.FINETUNE_SD, recipe, data)


def _check(config: SD, examples: ImageExamples) -> None:
    if not len(examples.texts_B):
        raise InputError(
            "high-KPI training samples: 0",
            "the baseline trains on their images",
            "ingest more posts or lower data.floors",
        )
    if config.batch % world_size():
        raise RecipeError(
            f"sd.batch = {config.batch}",
            f"must divide by sd.workers = {world_size()}",
            "change one of the two",
        )


def _count_cuts(pipe: Any, examples: ImageExamples) -> PromptCuts:
    texts = examples.texts_B
    names = examples.names_B or [repr(text[:40]) for text in texts]
    cuts = count_cuts(limited_tokenizers(pipe), texts, names)
    cuts.tell()
    return cuts


def _engine(pipe: Any, config: SD, seed: int) -> Engine:
    """An engine for the UNet's trainable weights; what is not trained goes to its device."""
    make_trainable(pipe.unet, config.lora_rank, seed)
    engine = Engine.create(
        pipe.unet,
        EngineConfig(
            lr=config.lr,
            steps=config.steps,
            betas=(0.9, 0.999),
            weight_decay=1e-2,
            zero_stage=config.zero_stage,
            dtype=engine_dtype(config.dtype, config.lora_rank),
        ),
    )
    for part in (pipe.vae, *text_encoders(pipe)):
        part.to(engine.device)
    return engine


def step_rows(count: int, batch: int, seed: int, step: int) -> list[int]:
    """Examples of a step: shuffled passes over all of them, cut into batches; a function of seed
    and step alone."""
    rows = []
    for position in range(step * batch, (step + 1) * batch):
        passed, place = divmod(position, count)
        rows.append((passed, place))
    orders = {
        passed: np.random.default_rng((_ORDER, seed, passed)).permutation(count)
        for passed in {p for p, _ in rows}
    }
    return [int(orders[passed][place]) for passed, place in rows]


def _loss(
    engine: Engine,
    pipe: Any,
    latents_NCHW: torch.Tensor,
    alphas_T: torch.Tensor,
    texts: Sequence[str],
    rows: list[int],
    seed: int,
    step: int,
    min_snr: float | None,
) -> torch.Tensor:
    draws = [_draw(seed, step, row, tuple(latents_NCHW.shape[1:]), len(alphas_T)) for row in rows]
    noise_BCHW = torch.stack([noise for noise, _, _ in draws]).to(engine.device)
    timesteps_B = torch.tensor([t for _, t, _ in draws], device=engine.device)
    condition = encode_prompts(
        pipe,
        [None if dropped else texts[row] for row, (_, _, dropped) in zip(rows, draws, strict=True)],
    )
    alpha_B111 = alphas_T[timesteps_B].reshape(-1, 1, 1, 1)
    noisy_BCHW = alpha_B111.sqrt() * latents_NCHW[rows] + (1 - alpha_B111).sqrt() * noise_BCHW
    pred_BCHW = predict(engine, noisy_BCHW, timesteps_B, condition)
    snr_B = (alpha_B111 / (1 - alpha_B111)).reshape(-1)
    # Of an error of the predicted image, in that of the prediction.
    target_BCHW, unit_B = (
        noise_BCHW,
        snr_B,
    )
    if pipe.scheduler.config.prediction_type == "v_prediction":
        # v's error is epsilon's over alpha: both weigh an error of the predicted image alike
        target_BCHW, unit_B = (
            alpha_B111.sqrt() * noise_BCHW - (1 - alpha_B111).sqrt() * latents_NCHW[rows],
            snr_B + 1,
        )
    if float(alphas_T[-1]) == 0.0:
        # Else the last timesteps, which decide an image's brightness, would weigh nothing: v's
        # weight falls with the SNR. Truncated as in arXiv 2202.00512.
        snr_B = snr_B.clamp(min=1.0)
    error_B = ((pred_BCHW - target_BCHW) ** 2).mean(dim=(1, 2, 3))
    loss: torch.Tensor = (
        error_B if min_snr is None else error_B * snr_B.clamp(max=min_snr) / unit_B
    ).mean()
    return loss


def _draw(
    seed: int, step: int, row: int, shape: tuple[int, ...], timesteps: int
) -> tuple[torch.Tensor, int, bool]:
    """Noise, timestep and caption dropout of one example in one step."""
    rng = np.random.default_rng((_NOISE, seed, step, row))
    noise_CHW = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return noise_CHW, int(rng.integers(timesteps)), bool(rng.random() < CAPTION_DROPOUT)
