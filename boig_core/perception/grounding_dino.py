"""Objects by Grounding DINO: one text holds the names, and each proposed box says how much it means
each token of it.

Leaves out: which boxes count (see `detectors`). torch is imported when a model is loaded, not
before. Shape letters: B images, S side, C = 3 channels, T tokens, Q boxes that the model proposes,
N names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.perception.detectors import BoxFilter, Pack, detect_in_chunks
from boig_core.perception.loading import Dtype, open_model, open_part, use_bfloat16
from boig_core.perception.objects import Region
from boig_core.perception.pixels import Pixels, fit

_FIELD: Final = "perception.detector_model"


class GroundingDino:
    """Finds what a vocabulary names; implements `objects.ObjectDetector`.

    An image is fitted into a square of the checkpoint's shorter edge (800 pixels for the published
    ones), unsqueezed and padded. Weights stay in float32 and only products are taken in bfloat16,
    because box coordinates want more digits.

    Args:
        ref: hub id or folder, such as ``IDEA-Research/grounding-dino-tiny``.
        kinds: names to look for where the caller gives none.
        rules: what counts as an object.
        batch: passes at a time.
        dtype: precision of the products.

    Raises:
        InputError: the reference holds no Grounding DINO, or a kind holds no word or too many.
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
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection
        from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
            GroundingDinoImageProcessorPil,
        )

        self._model, folder = open_model(
            GroundingDinoForObjectDetection, ref, _FIELD, ("grounding-dino",), torch.float32
        )
        self._tokenizer: Any = open_part(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            ref,
            _FIELD,
            "tokenizer",
        )
        processor: Any = open_part(
            lambda: GroundingDinoImageProcessorPil.from_pretrained(folder),
            ref,
            _FIELD,
            "image processor",
        )
        self._side = int(processor.size["shortest_edge"])
        self._mean_C, self._std_C = (
            torch.tensor(values) for values in (processor.image_mean, processor.image_std)
        )
        self._room = int(self._model.config.max_text_len)
        for layer in self._model.model.encoder.layers:
            _keep_apart(layer.fusion_layer.attn)
        self._bfloat16 = use_bfloat16(dtype)
        self._kinds, self._rules, self._batch = tuple(kinds), rules, batch
        # Packed once for nothing but its errors: a kind that cannot be read is refused before work
        # begins.
        self._pack(self._kinds)

    def detect(
        self, images: Sequence[Pixels], vocabularies: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """Regions of each image, the largest first, one per name, boxes in pixels of that image."""
        asked = [self._kinds] * len(images) if vocabularies is None else vocabularies
        return detect_in_chunks(images, asked, self._pack, self._look, self._rules, self._batch)

    def _tokens(self, name: str) -> list[int]:
        """Tokens of a name; full stops and question marks are left out, because they part names."""
        tokens: list[int] = self._tokenizer(
            name.replace(".", " ").replace("?", " "),
            add_special_tokens=False,
            split_special_tokens=True,
        )["input_ids"]
        # Three places go to the marks at both ends and to the full stop.
        if not 0 < len(tokens) <= self._room - 3:
            raise InputError(
                f"object name {name!r}",
                f"has {len(tokens)} tokens, between 1 and {self._room - 3} are read",
                "name it otherwise",
            )
        return tokens

    def _pack(self, names: Iterable[str]) -> list[Pack]:
        """As many names per pass as the text takes, with a full stop after each and a mark at both
        ends."""
        packs: list[list[str]] = []
        room = 0
        for name in names:
            length = len(self._tokens(name)) + 1
            if length > room:
                packs.append([])
                room = self._room - 2
            packs[-1].append(name)
            room -= length
        return [tuple(pack) for pack in packs]

    def _text(self, names: Pack) -> tuple[list[int], NDArray[np.float32]]:
        """Tokens of the text, and the weight of each token in each name's score, (T, N)."""
        stop = self._tokenizer.convert_tokens_to_ids(".")
        text = [self._tokenizer.cls_token_id]
        weights_TN = np.zeros((self._room, len(names)), np.float32)
        for column, name in enumerate(names):
            tokens = self._tokens(name)
            # The mean over all its tokens: with the largest, one word of a name would be enough.
            weights_TN[len(text) : len(text) + len(tokens), column] = 1 / len(tokens)
            text += [*tokens, stop]
        return [*text, self._tokenizer.sep_token_id], weights_TN

    def _look(
        self, images: Sequence[Pixels], packs: Sequence[Pack]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        import torch

        device = self._model.device
        texts = [self._text(names) for names in packs]
        # Always as long as the model reads: a text's length must not depend on the others of its
        # chunk.
        tokens_BT = torch.full((len(packs), self._room), self._tokenizer.pad_token_id)
        mask_BT = torch.zeros_like(tokens_BT)
        for row, (text, _) in enumerate(texts):
            tokens_BT[row, : len(text)] = torch.tensor(text)
            mask_BT[row, : len(text)] = 1
        fitted_BSSC, inside_BSS = (torch.from_numpy(array) for array in fit(images, self._side))
        # Zero after normalizing, as the library pads.
        pixels_BSSC = ((fitted_BSSC / 255 - self._mean_C) / self._std_C) * inside_BSS[..., None]
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16),
        ):
            output = self._model(
                pixel_values=pixels_BSSC.permute(0, 3, 1, 2).contiguous().to(device),
                pixel_mask=inside_BSS.long().to(device),
                input_ids=tokens_BT.to(device),
                attention_mask=mask_BT.to(device),
            )
        probability_BQT = output.logits.float().sigmoid().cpu().numpy()
        boxes_BQ4 = output.pred_boxes.float().cpu().numpy()
        seen = []
        for image, (_, weights_TN), probability_QT, boxes_Q4 in zip(
            images, texts, probability_BQT, boxes_BQ4, strict=True
        ):
            height, width = image.shape[:2]
            # Thanks to the mask boxes are shares of the image itself, not of the square around it.
            seen.append(
                (
                    probability_QT @ weights_TN,
                    boxes_Q4 * np.array([width, height, width, height], np.float32),
                )
            )
        return seen


def _keep_apart(attention: Any) -> None:
    """Let attention between image and text run image by image, in float32.

    It subtracts the largest value of the whole batch before its softmax: in exact numbers nothing,
    in rounded ones a trace of the company.
    """
    import torch

    together = attention.forward

    def apart(*features: torch.Tensor, **masks: torch.Tensor) -> Any:
        with torch.autocast(features[0].device.type, enabled=False):
            rows = [
                together(
                    *(feature[i : i + 1].float() for feature in features),
                    **{name: mask[i : i + 1] for name, mask in masks.items()},
                )
                for i in range(len(features[0]))
            ]
        return tuple(
            tuple(torch.cat(parts) for parts in zip(*(row[which] for row in rows), strict=True))
            for which in (0, 1)
        )

    attention.forward = apart
