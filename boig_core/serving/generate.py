"""Images of a published model for a post that is not published yet, in a folder that a person
opens: each with its seed and its origin, best first where the reward of the model ranks them.

The folder appears whole, or not at all. Leaves out: which model (see `published`), and many posts
at once.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.serving.gallery import GALLERY, render
from boig_core.serving.provenance import ImageOrigin, png_of, prompt_digest
from boig_core.serving.published import PublishedModel
from boig_core.storage.manifest import code_version

RECORD: Final = "generation.json"
AT_ONCE: Final = 4
"""Images sampled at a time, however many are asked for: another number would change their last
bits."""
SEEDS: Final = 2**32
"""Seeds are below this."""


@dataclass(frozen=True)
class GenerationRequest:
    """What is asked for.

    Attributes:
        text: of the post: the model's prompt.
        account: whose post it is.
        count: of images.
        seed: of the first image; each next image has the next one.
        ranked: whether the model's reward ranks the images.
    """

    text: str
    account: str
    count: int
    seed: int
    ranked: bool

    @property
    def seeds(self) -> list[int]:
        """Seed of each image."""
        return [(self.seed + i) % SEEDS for i in range(self.count)]


def draw_seed() -> int:
    """A seed that nobody has chosen."""
    return secrets.randbelow(SEEDS)


def require_free(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        InputError: it does, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(out, "holds something already", "give --out a new folder")


def generate(
    model: PublishedModel,
    request: GenerationRequest,
    out: Path,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """Write the images, ``index.html`` and ``generation.json`` into a new folder; returns what the
    latter holds.

    Args:
        model: that makes them.
        request: what is asked for.
        out: folder, new or empty.
        progress: receives how many images were sampled since it was called last.

    Raises:
        InputError: the folder holds something, or nothing ranks the images of this model.
        ScorerError: the reward could not be computed.
    """
    require_free(out)
    images_BHWC = sample(model, request, progress)
    rewards = _rewards(model, request, images_BHWC) if request.ranked else None
    order = range(request.count) if rewards is None else np.argsort(-rewards, kind="stable")
    generation = str(uuid4())
    files: dict[str, bytes] = {}
    rows: list[dict[str, Any]] = []
    for rank, i in enumerate(order, 1):
        seed = request.seeds[i]
        origin = ImageOrigin(
            generation, model.place, model.digest, prompt_digest(request.text), seed
        )
        name = f"{rank:0{len(str(request.count))}}-seed-{seed}.png"
        files[name] = png_of(images_BHWC[i], origin)
        rows.append(
            {
                "file": name,
                "seed": seed,
                **({} if rewards is None else {"reward": float(rewards[i])}),
            }
        )
    record = {"generation": generation, **_about(model, request), "images": rows}
    files[RECORD] = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
    files[GALLERY] = render(record, files).encode()
    _write(out, files)
    return record


def sample(
    model: PublishedModel, request: GenerationRequest, progress: Callable[[int], None]
) -> NDArray[np.uint8]:
    """The images ``images_BHWC``, uint8 RGB, by the steps and the guidance that the model was
    evaluated with."""
    import torch

    from boig_core.diffusion.pipeline import load_pipeline
    from boig_core.diffusion.sample import sample_images

    settings = model.recipe.evaluation
    pipe = load_pipeline(str(model.folder()), model.recipe.sd.dtype)
    if torch.cuda.is_available():
        pipe = pipe.to("cuda")
    parts = []
    for start in range(0, request.count, AT_ONCE):
        seeds = request.seeds[start : start + AT_ONCE]
        texts = [request.text] * len(seeds)
        parts.append(
            sample_images(
                pipe, texts, seeds, settings.sampling_steps, settings.guidance, batch=AT_ONCE
            )
        )
        progress(len(seeds))
    return np.concatenate(parts)


def _rewards(
    model: PublishedModel, request: GenerationRequest, images_BHWC: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """What the reward that the model was aligned to gives each image."""
    from boig_core.perception.describe import Perceiver
    from boig_core.rewards.loading import needs_predictor
    from boig_core.rewards.scorer import LlmScorer

    recipe = model.recipe
    post = model.new_post(request.text, request.account)
    predictor = (
        model.input_folder("predictor", "predictor") if needs_predictor(recipe.reward) else None
    )
    scorer = LlmScorer(
        model.input_folder("boigllm", "boigllm"),
        Perceiver.from_recipe(recipe.perception),
        recipe,
        model.calibration,
        predictor,
    )
    return scorer.score(images_BHWC, [post] * request.count)


def _about(model: PublishedModel, request: GenerationRequest) -> dict[str, Any]:
    settings = model.recipe.evaluation
    return {
        "text": request.text,
        "account": request.account,
        "model": model.place,
        "manifest": model.digest,
        "base": model.recipe.sd.base,
        "sampling_steps": settings.sampling_steps,
        "guidance": settings.guidance,
        "ranked_by": model.recipe.reward.name if request.ranked else None,
        "code": code_version(),
    }


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Put all files into the folder by one rename."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        scratch.chmod(0o755)
        # An empty folder may be replaced by another one; one that was filled meanwhile may not.
        os.replace(scratch, out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
