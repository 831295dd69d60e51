"""Objects by OWLv2: every patch of the image proposes a box, and its embedding is compared with
that of each name.

Leaves out: which boxes count (see `detectors`). torch is imported when a model is loaded, not
before. Shape letters: B images, S side, C = 3 channels, K names per pass, T tokens, Q boxes that
the model proposes, N names that were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.perception.detectors import BoxFilter, Pack, detect_in_chunks
from boig_core.perception.loading import Dtype, open_model, open_part, use_bfloat16
from boig_core.perception.objects import Region
from boig_core.perception.pixels import Pixels, fit

_FIELD: Final = "perception.detector_model"
_WORDING: Final = "a photo of a {}"
_QUERIES: Final = 16
"""Names per pass, at least: a fixed number, the missing ones filled up."""


class Owlv2:
    """Finds what a vocabulary names; implements `objects.ObjectDetector`.

    An image is fitted into the checkpoint's square (960 pixels for the published base model),
    unsqueezed and padded. Weights stay in float32 and only products are taken in bfloat16, because
    box coordinates want more digits.

    Args:
        ref: hub id or folder, such as ``google/owlv2-base-patch16-ensemble``.
        kinds: names to look for where the caller gives none.
        rules: what counts as an object.
        batch: passes at a time.
        dtype: precision of the products.

    Raises:
        InputError: the reference holds no OWLv2.
    """

    wants_originals: Final = True

    def __init__(
        self,
        ref: str | None,
        kinds: Sequence[str],
        rules: BoxFilter,
        batch: int,
        dtype: Dtype = "auto",
    ) -> None:
        import torch
        from transformers import AutoTokenizer, Owlv2ForObjectDetection
        from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

        self._model, folder = open_model(
            Owlv2ForObjectDetection, ref, _FIELD, ("owlv2",), torch.float32
        )
        self._tokenizer: Any = open_part(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            ref,
            _FIELD,
            "tokenizer",
        )
        processor: Any = open_part(
            lambda: Owlv2ImageProcessorPil.from_pretrained(folder), ref, _FIELD, "image processor"
        )
        self._side = int(self._model.config.vision_config.image_size)
        self._mean_C, self._std_C = (
            torch.tensor(values) for values in (processor.image_mean, processor.image_std)
        )
        self._tokens = int(self._model.config.text_config.max_position_embeddings)
        # A recipe's kinds fit into one pass, however many they are.
        self._queries = max(_QUERIES, len(set(kinds)))
        self._bfloat16 = use_bfloat16(dtype)
        self._kinds, self._rules, self._batch = tuple(kinds), rules, batch

    def detect(
        self, images: Sequence[Pixels], vocabularies: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """Regions of each image, the largest first, one per name, boxes in pixels of that image."""
        asked = [self._kinds] * len(images) if vocabularies is None else vocabularies
        return detect_in_chunks(images, asked, self._pack, self._look, self._rules, self._batch)

    def _pack(self, names: Iterable[str]) -> list[Pack]:
        listed = tuple(names)
        return [
            listed[start : start + self._queries] for start in range(0, len(listed), self._queries)
        ]

    def _look(
        self, images: Sequence[Pixels], packs: Sequence[Pack]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        import torch

        device = self._model.device
        # The first name fills a pack up; its further columns are never read.
        prompts = [
            _WORDING.format(name)
            for names in packs
            for name in names + names[:1] * (self._queries - len(names))
        ]
        text = self._tokenizer(
            prompts,
            split_special_tokens=True,
            padding="max_length",
            truncation=True,
            max_length=self._tokens,
            return_tensors="pt",
        ).to(device)
        fitted_BSSC = torch.from_numpy(fit(images, self._side)[0])
        # No mask here, unlike Grounding DINO: the library pads with black before it normalizes.
        pixels_BSSC = (fitted_BSSC / 255 - self._mean_C) / self._std_C
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16),
        ):
            output = self._model(
                pixel_values=pixels_BSSC.permute(0, 3, 1, 2).contiguous().to(device),
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
            )
        scores_BQK = output.logits.float().sigmoid().cpu().numpy()
        boxes_BQ4 = output.pred_boxes.float().cpu().numpy()
        # Boxes are shares of the square, which the longer edge of the image fills.
        return [
            (scores_QK[:, : len(names)], boxes_Q4 * np.float32(max(image.shape[:2])))
            for image, names, scores_QK, boxes_Q4 in zip(
                images, packs, scores_BQK, boxes_BQ4, strict=True
            )
        ]
