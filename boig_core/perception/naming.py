"""Zero-shot naming: which of a recipe's kinds a crop shows, or which of its tags an image, by a
CLIP's image-text similarity.

Leaves out: where the crops come from (see `objects`). torch is imported when a model is loaded, not
before. Shape letters: R crops, K kinds, D embedding, C = 3 channels, S the CLIP's image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from boig_core.errors import InputError
from boig_core.perception.loading import open_model, open_part
from boig_core.perception.objects import UNKNOWN
from boig_core.perception.pixels import Pixels

_FIELD: Final = "perception.clip"
_WORDINGS: Final = ("{}", "a {}", "a photo of a {}")
_CHUNK: Final = 64
"""Crops a forward pass: always so many, padded, so that a crop's name does not depend on its
company (last bits follow the batch size)."""


class ClipNamer:
    """Names crops by the kind whose prompts lie nearest in a CLIP's space; implements
    `objects.Namer`.

    Args:
        ref: hub id, folder or ``package:NAME`` of a CLIP.
        kinds: names to choose among, at least two.
        threshold: a crop whose best kind has a lower probability is `UNKNOWN`; a tag that has a
            lower one is left out.
        field: of the recipe that listed the kinds, for messages.

    Raises:
        InputError: fewer than two kinds, or a reference that holds no CLIP.
    """

    def __init__(
        self, ref: str, kinds: Sequence[str], threshold: float, field: str = "perception.kinds"
    ) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        if len(set(kinds)) < 2:
            raise InputError(
                f"{field} = {list(kinds)}",
                f"must name at least two {field.rpartition('.')[2]}",
                "list what posts show, or leave it empty",
            )
        model, folder = open_model(CLIPModel, ref, _FIELD, ("clip",), torch.float32)
        tokenizer: Any = open_part(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            ref,
            _FIELD,
            "tokenizer",
        )
        processor: Any = open_part(
            lambda: CLIPImageProcessorPil.from_pretrained(folder), ref, _FIELD, "image processor"
        )
        self._kinds = tuple(kinds)
        self._threshold = threshold
        self._device = model.device
        self._model = model
        self._side = int(model.config.vision_config.image_size)
        self._mean_C, self._std_C = (
            torch.tensor(values) for values in (processor.image_mean, processor.image_std)
        )
        prompts = [wording.format(kind) for kind in kinds for wording in self._wordings(model)]
        tokens = tokenizer(
            prompts,
            split_special_tokens=True,
            padding="max_length",
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.inference_mode():
            pooled_PD = model.text_projection(
                model.text_model(**tokens.to(self._device)).pooler_output
            )
            # Normalized before the mean, so that each wording has the same say.
            mean_KD = (
                torch.nn.functional.normalize(pooled_PD, dim=-1)
                .reshape(len(kinds), -1, pooled_PD.shape[-1])
                .mean(dim=1)
            )
            self._kinds_KD = model.logit_scale.exp() * torch.nn.functional.normalize(
                mean_KD, dim=-1
            )

    def name(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Best kind and its probability among the kinds, for each crop; `UNKNOWN` below the
        threshold."""
        ranked = self._rank(crops, 1)
        return [
            (kind if probability >= self._threshold else UNKNOWN, probability)
            for [(kind, probability)] in ranked
        ]

    def tag(self, images: Sequence[Pixels], limit: int) -> list[tuple[str, ...]]:
        """Kinds whose probability among the kinds reaches the threshold, for each image; the
        likeliest first, ``limit`` at most."""
        ranked = self._rank([Image.fromarray(image) for image in images], limit)
        return [
            tuple(kind for kind, probability in kinds if probability >= self._threshold)
            for kinds in ranked
        ]

    def _rank(self, crops: Sequence[Image.Image], limit: int) -> list[list[tuple[str, float]]]:
        """The likeliest kinds of each crop with their probabilities."""
        import torch

        ranked: list[list[tuple[str, float]]] = []
        for start in range(0, len(crops), _CHUNK):
            chunk = crops[start : start + _CHUNK]
            pixels_RSSC = np.zeros((_CHUNK, self._side, self._side, 3), np.uint8)
            for index, crop in enumerate(chunk):
                # Whole: the processor of a CLIP would cut off what lies beside the middle square.
                pixels_RSSC[index] = np.asarray(
                    crop.resize((self._side, self._side), Image.Resampling.BILINEAR)
                )
            with torch.inference_mode():
                pixels_RCSS = (
                    (torch.from_numpy(pixels_RSSC) / 255 - self._mean_C) / self._std_C
                ).permute(0, 3, 1, 2)
                pooled_RD = self._model.visual_projection(
                    self._model.vision_model(pixels_RCSS.to(self._device)).pooler_output
                )
                logits_RK = torch.nn.functional.normalize(pooled_RD, dim=-1) @ self._kinds_KD.T
                # Rows that only fill the chunk up have probabilities too, so they are cut off.
                best = logits_RK.softmax(dim=-1)[: len(chunk)].topk(
                    min(limit, len(self._kinds)), dim=-1
                )
            for probabilities, kinds in zip(
                best.values.tolist(), best.indices.tolist(), strict=True
            ):
                ranked.append(
                    [
                        (self._kinds[kind], probability)
                        for kind, probability in zip(kinds, probabilities, strict=True)
                    ]
                )
        return ranked

    @staticmethod
    def _wordings(model: Any) -> tuple[str, ...]:
        """A CLIP of a few layers knows bare names only; a grown one knows photographs."""
        return _WORDINGS[:2] if model.config.vision_config.image_size < 100 else _WORDINGS
