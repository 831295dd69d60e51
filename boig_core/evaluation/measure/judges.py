"""Who judges generated images: a held-out judge of the KPI, and a CLIP that took no part in
training.

Neither is read by any training stage, monitor or checkpoint choice; they score afterwards. The
training's own `probe` asks another CLIP by the functions here. Which KPI judge there is, a stage
file says (`ray_jobs/judge.py`). Shape letters: N images, M texts, D width of the joint space, F
width of the vision features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from boig_core.diffusion.prompt_cuts import PromptCuts, count_cuts
from boig_core.models import resolve_model
from boig_core.models.files import check_transformers_folder
from boig_core.models.opening import check_whole, opening
from boig_core.vocabulary import Sample, require_whole_characters

_BATCH: Final = 64


class Judge(Protocol):
    """A held-out judge: whatever says, without the reward model, how an image would do for a
    post."""

    name: str

    def judge(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]
    ) -> NDArray[np.float64]:
        """One finite number an image; higher is better. ``samples`` give company and date."""
        ...


@dataclass(frozen=True)
class ClipFeatures:
    """Images as a CLIP sees them.

    Attributes:
        embedding_ND: in the joint space with texts, unit length.
        features_NF: pooled output of the vision half, before the projection: for KID and FID.
    """

    embedding_ND: NDArray[np.float64]
    features_NF: NDArray[np.float64]


class ClipJudge:
    """CLIP score and image features.

    Args:
        ref: hub id, local folder or ``package:NAME`` of a CLIP with its processor.

    Raises:
        InputError: nothing that opens as a CLIP stands at ``ref``.
    """

    def __init__(self, ref: str) -> None:
        from transformers import CLIPModel, CLIPTokenizerFast
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = resolve_model(ref)
        if Path(folder).is_dir():
            check_transformers_folder(Path(folder), ref)
        with opening(ref, "does not open as a CLIP", "give a CLIP folder or hub id"):
            model, report = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
            check_whole(report, ref)
            self._model = model.eval()
            self._tokenizer = CLIPTokenizerFast.from_pretrained(folder)
            self._processor = CLIPImageProcessorPil.from_pretrained(folder)

    @property
    def width(self) -> int:
        """Of the joint space."""
        return int(self._model.config.projection_dim)

    @torch.no_grad()
    def see(self, images_NHWC: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> ClipFeatures:
        """Embeddings and features of uint8 RGB images."""
        embeddings, features = [], []
        for start in range(0, len(images_NHWC), _BATCH):
            batch = [Image.fromarray(image) for image in images_NHWC[start : start + _BATCH]]
            pixels_BCHW = self._processor(batch, return_tensors="pt")["pixel_values"]
            pooled_BF = self._model.vision_model(pixel_values=pixels_BCHW).pooler_output
            # Double precision from here on: differences of mean cosines are small, and sums run
            # over many images.
            features.append(pooled_BF.double().numpy())
            embeddings.append(self._model.visual_projection(pooled_BF).double().numpy())
        return ClipFeatures(_unit(np.concatenate(embeddings)), np.concatenate(features))

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Embeddings (M, D) of texts, unit length; longer texts are cut to the model's context.

        Raises:
            InputError: a text holds half a character.
        """
        require_whole_characters(texts)
        tokens = self._tokenizer(
            list(texts),
            split_special_tokens=True,
            padding=True,
            truncation=True,
            max_length=self._limit,
            return_tensors="pt",
        )
        pooled_MW = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return _unit(self._model.text_projection(pooled_MW).double().numpy())

    def cuts(self, texts: Sequence[str], names: Sequence[str]) -> PromptCuts:
        """How many texts `read` cuts; ``names`` are theirs, for people."""
        return count_cuts([(self._tokenizer, self._limit)], texts, names)

    @property
    def _limit(self) -> int:
        # Read off the model: tokenizers of some checkpoints name no limit, or another one.
        return int(self._model.config.text_config.max_position_embeddings)


def clip_scores(
    embedding_ND: NDArray[np.float64], text_MD: NDArray[np.float64], own_N: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CLIP score (100 x cosine) of each image with its own text, and its mean over all the other
    texts.

    The difference is the margin by which an image shows its prompt rather than just any: a CLIP
    score alone also pays for looks.

    Args:
        embedding_ND: images, unit length.
        text_MD: at least two distinct texts, unit length.
        own_N: index of each image's own text.
    """
    cosine_NM = 100.0 * embedding_ND @ text_MD.T
    matched_N = cosine_NM[np.arange(len(own_N)), own_N]
    return matched_N, (cosine_NM.sum(axis=1) - matched_N) / (text_MD.shape[0] - 1)


def diversity(embedding_PKD: NDArray[np.float64]) -> float:
    """Mean cosine distance between images of one prompt: (P prompts, K >= 2 images each, D). 0: all
    alike."""
    return float(distances(embedding_PKD).mean())


def distances(embedding_PKD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean cosine distance of each image from the others of its prompt, (P, K): what `diversity` is
    the mean of."""
    cosine_PKK = np.einsum("pid,pjd->pij", embedding_PKD, embedding_PKD)
    # Without the image itself, whose distance of 0 would make few images look less diverse than
    # many.
    others_PK = cosine_PKK.sum(axis=2) - np.diagonal(cosine_PKK, axis1=1, axis2=2)
    return np.asarray(1.0 - others_PK / (embedding_PKD.shape[1] - 1), np.float64)


def diversity_across(embedding_PKD: NDArray[np.float64]) -> float:
    """Mean cosine distance between images of different prompts: (P >= 2 prompts, K images each, D),
    rows of length 1. 0: all alike."""
    prompts, count, _ = embedding_PKD.shape
    sum_PD = embedding_PKD.sum(axis=1)
    # Square of the sum less the squares of each prompt's: all pairs across prompts, without a
    # matrix of them.
    across = float((sum_PD.sum(axis=0) ** 2).sum() - (sum_PD**2).sum())
    return float(1.0 - across / (prompts * (prompts - 1) * count**2))


def novelty(embedding_ND: NDArray[np.float64], train_TD: NDArray[np.float64]) -> float:
    """Mean cosine distance of an image from the training image (T >= 1) that is most like it, rows
    of length 1. 0: all are copies."""
    return float(1.0 - (embedding_ND @ train_TD.T).max(axis=1).mean())


def _unit(rows_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True), np.float64)
