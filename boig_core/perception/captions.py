"""Captions of images: one sentence each, by a BLIP or a model of LLaVA's class, decoded greedily so
that the same image reads the same.

Images go through in fixed chunks, the last one filled up, so that a caption does not depend on its
company. Leaves out: training. torch is imported when a model is loaded, not before. Shape letters:
B images, C = 3 channels, S side, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from PIL import Image

from boig_core.config import Perception
from boig_core.perception.loading import Dtype, open_model, open_part, use_bfloat16
from boig_core.perception.pixels import Pixels
from boig_core.vocabulary import keywords

_FIELD: Final = "perception.caption_model"
_QUESTION: Final = "Describe this image in one sentence."
_BARE: Final = "USER: {image}\n{question} ASSISTANT:"
"""How LLaVA 1.5 was asked, for checkpoints without a chat template."""


_OF_PICTURES: Final = frozenset(
    (
        "image",
        "images",
        "photo",
        "photograph",
        "photos",
        "picture",
        "pictures",
        "shown",
        "showing",
        "shows",
    )
)
"""Words of captions that speak of the picture, not of what it shows."""


class Captioner(Protocol):
    """Says what an image shows, a whole batch at a time, because that is what a GPU wants."""

    def caption(self, images: Sequence[Pixels]) -> list[str]:
        """One caption an image, without line breaks."""
        ...


def open_captioner(perception: Perception) -> Captioner | None:
    """The recipe's captioner, if it names one.

    Raises:
        InputError: its model cannot be opened.
    """
    if perception.captioner == "none":
        return None
    build = Blip if perception.captioner == "blip" else Llava
    return build(
        perception.caption_model,
        perception.caption_prompt,
        perception.caption_tokens,
        perception.batch,
        perception.dtype,
    )


def caption_keywords(caption: str, limit: int) -> tuple[str, ...]:
    """Content words of a caption, at most ``limit``."""
    return keywords(caption, limit, _OF_PICTURES)


class Blip:
    """Captions by BLIP; implements `Captioner`.

    Args:
        ref: hub id or folder, such as ``Salesforce/blip-image-captioning-base``.
        prompt: how captions begin; None: as the model likes.
        tokens: longest caption.
        batch: images at a time.
        dtype: of the weights.

    Raises:
        InputError: the reference holds no BLIP that writes captions.
    """

    def __init__(
        self, ref: str | None, prompt: str | None, tokens: int, batch: int, dtype: Dtype = "auto"
    ) -> None:
        import torch
        from transformers import AutoTokenizer, BlipForConditionalGeneration
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        precision = torch.bfloat16 if use_bfloat16(dtype) else torch.float32
        self._model, folder = open_model(
            BlipForConditionalGeneration, ref, _FIELD, ("blip",), precision
        )
        self._tokenizer: Any = open_part(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            ref,
            _FIELD,
            "tokenizer",
        )
        self._processor: Any = open_part(
            lambda: BlipImageProcessorPil.from_pretrained(folder), ref, _FIELD, "image processor"
        )
        self._prompt, self._tokens, self._batch = prompt, tokens, batch

    def caption(self, images: Sequence[Pixels]) -> list[str]:
        """One caption an image, the prompt at its beginning."""
        return _in_chunks(images, self._batch, self._write)

    def _write(self, images: list[Pixels]) -> list[str]:
        import torch

        # As pictures, since of an array with three rows the processor may take the rows for
        # channels.
        pixels_BCSS = self._processor(
            [Image.fromarray(image) for image in images], return_tensors="pt"
        )["pixel_values"]
        begun = (
            {}
            if self._prompt is None
            else self._tokenizer([self._prompt] * len(images), return_tensors="pt")
        )
        # These alone: a tokenizer may give token types too, which BLIP does not take.
        prompt_ids = {
            name: begun[name].to(self._model.device)
            for name in ("input_ids", "attention_mask")
            if name in begun
        }
        with torch.inference_mode():
            pixels_BCSS = pixels_BCSS.to(self._model.device, self._model.dtype)
            written_BT = self._model.generate(
                pixels_BCSS, **prompt_ids, max_new_tokens=self._tokens, do_sample=False, num_beams=1
            )
        return list(self._tokenizer.batch_decode(written_BT, skip_special_tokens=True))


class Llava:
    """Captions by a model of LLaVA's class, an image and a question in, text out; implements
    `Captioner`.

    Args:
        ref: hub id or folder, such as ``llava-hf/llava-1.5-7b-hf``.
        prompt: the question; None: for one sentence.
        tokens: longest caption.
        batch: images at a time.
        dtype: of the weights.

    Raises:
        InputError: the reference holds no such model.
    """

    def __init__(
        self, ref: str | None, prompt: str | None, tokens: int, batch: int, dtype: Dtype = "auto"
    ) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        precision = torch.bfloat16 if use_bfloat16(dtype) else torch.float32
        self._model, folder = open_model(AutoModelForImageTextToText, ref, _FIELD, (), precision)
        self._processor: Any = open_part(
            lambda: AutoProcessor.from_pretrained(folder, trust_remote_code=False),
            ref,
            _FIELD,
            "processor",
        )
        # A decoder goes on from the last place, so what fills up rows must come first.
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            # Which token fills up does not matter, because the mask hides it.
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        self._text = self._ask(prompt or _QUESTION)
        self._tokens, self._batch = tokens, batch

    def caption(self, images: Sequence[Pixels]) -> list[str]:
        """One caption an image."""
        return _in_chunks(images, self._batch, self._write)

    def _ask(self, question: str) -> str:
        if not getattr(self._processor, "chat_template", None):
            return _BARE.format(image=self._processor.image_token, question=question)
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        return str(
            self._processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        )

    def _write(self, images: list[Pixels]) -> list[str]:
        import torch

        shown = [Image.fromarray(image) for image in images]
        inputs = self._processor(
            images=shown, text=[self._text] * len(shown), padding=True, return_tensors="pt"
        )
        inputs = inputs.to(self._model.device, self._model.dtype)  # casts what is a float
        pad = self._processor.tokenizer.pad_token_id
        with torch.inference_mode():
            written_BT = self._model.generate(
                **inputs,
                max_new_tokens=self._tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad,
            )
        # This decoder gives back what it was asked before its answer; BLIP's prompt is part of the
        # caption.
        answers_BT = written_BT[:, inputs["input_ids"].shape[1] :]
        return list(self._processor.tokenizer.batch_decode(answers_BT, skip_special_tokens=True))


def _in_chunks(
    images: Sequence[Pixels], batch: int, write: Callable[[list[Pixels]], list[str]]
) -> list[str]:
    """Captions of each image with white space joined."""
    captions: list[str] = []
    for start in range(0, len(images), batch):
        chunk = list(images[start : start + batch])
        # Always the same shape: sums over another number of rows may differ in their last bits, and
        # a near tie of two words would then read otherwise.
        captions += write(chunk + [chunk[-1]] * (batch - len(chunk)))[: len(chunk)]
    return [" ".join(caption.split()) for caption in captions]
