"""Train a tiny CLIP: scenes against their captions, and crops of single objects against object
names.

One such model lends its text half to the diffusion model and its vision half to features and
naming; a second one, from another seed and other scenes, takes no part in training anything and
judges. Shape letters: B batch, L tokens, P phrases, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from boig_core.adworld.scene import KINDS, OBJECT_COLORS
from boig_core.adworld.tiny_models.data import NOTHING, SIDE, TrainingSet, tokenize

TEXT_WIDTH: Final = 64
_BATCH: Final = 128
_CROPS: Final = 64
_PEAK_RATE: Final = 2e-3
_MAX_LOGIT_SCALE: Final = float(np.log(100.0))


def build_clip(tokenizer: Any) -> CLIPModel:
    """An untrained tiny CLIP (about 0.4 M parameters): two text layers of width 64, three vision
    layers of width 96 on 8 px patches."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_act": "gelu",
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    # Plain attention is several times faster than the fused kernels at these sizes on a CPU.
    return CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config=vision,
            projection_dim=TEXT_WIDTH,
            attn_implementation="eager",
        )
    )


def to_pixels(images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 images to ``pixels_BCHW`` in [-1, 1], as the saved processor gives them."""
    return (
        torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1
    )


def train_clip(
    model: CLIPModel,
    tokenizer: Any,
    data: TrainingSet,
    steps: int,
    seed: int,
    advance: Callable[[str], None],
) -> None:
    """Train in place: symmetric InfoNCE on scenes; cross-entropy over all kinds, and over all
    colored kinds, on crops.

    A crop of background alone is pulled to a uniform answer, so that a naming threshold can mean
    something.
    """
    rng = np.random.default_rng(seed)
    ids_NKL = torch.from_numpy(tokenize(tokenizer, data.captions))
    phrases = [torch.from_numpy(tokenize(tokenizer, [names])[0]) for names in _phrases()]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_RATE, total_steps=steps, pct_start=0.1
    )
    model.train()
    for step in range(steps):
        scenes_B = rng.integers(len(data.scenes), size=_BATCH)
        crops_B = rng.integers(len(data.scenes), size=_CROPS)
        pixels_BCHW = to_pixels(
            np.concatenate([data.images_NHWC[scenes_B], data.crops_NHWC[crops_B]])
        )
        image_BD = functional.normalize(
            model.vision_model(pixels_BCHW).pooler_output @ model.visual_projection.weight.T, dim=-1
        )
        # Another caption each time, so that sparse posts are read as well as full captions.
        ids_BL = ids_NKL[scenes_B, rng.integers(ids_NKL.shape[1], size=_BATCH)]
        # The wordings take turns, since naming may ask with or without an article.
        phrase_PL = phrases[step % len(phrases)]
        text_BD = functional.normalize(_text(model, torch.cat([ids_BL, phrase_PL])), dim=-1)
        scale = model.logit_scale.exp()
        logits_BB = scale * image_BD[:_BATCH] @ text_BD[:_BATCH].T
        target_B = torch.arange(_BATCH)
        scene_loss = (
            functional.cross_entropy(logits_BB, target_B)
            + functional.cross_entropy(logits_BB.T, target_B)
        ) / 2
        crop_loss = _crop_loss(
            scale * image_BD[_BATCH:] @ text_BD[_BATCH:].T,
            data.crop_kinds_N[crops_B],
            data.crop_colors_N[crops_B],
        )
        optimizer.zero_grad()
        torch.autograd.backward(scene_loss + crop_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            # As in CLIP's own training, which a larger scale makes unstable.
            model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        advance(f"scenes {scene_loss.item():.2f} crops {crop_loss.item():.2f}")
    model.eval()


def _text(model: CLIPModel, ids_BL: torch.Tensor) -> torch.Tensor:
    embeddings_BD: torch.Tensor = model.text_projection(model.text_model(ids_BL).pooler_output)
    return embeddings_BD


def _phrases() -> list[list[str]]:
    """Ways to name what a crop shows: first the bare kinds, then every color with every kind."""
    wordings = ("{}", "a {}")
    colored = [f"{color} {kind}" for kind in KINDS for color in OBJECT_COLORS]
    return [[wording.format(name) for name in (*KINDS, *colored)] for wording in wordings]


def _crop_loss(
    logits_BP: torch.Tensor, kinds_B: NDArray[np.int64], colors_B: NDArray[np.int64]
) -> torch.Tensor:
    kind_logits_BP, colored_logits_BP = logits_BP[:, : len(KINDS)], logits_BP[:, len(KINDS) :]
    shown_B, kind_B, color_B = (
        torch.from_numpy(kinds_B != NOTHING),
        torch.from_numpy(kinds_B),
        torch.from_numpy(colors_B),
    )
    loss = functional.cross_entropy(kind_logits_BP[shown_B], kind_B[shown_B])
    loss = loss + 0.5 * functional.cross_entropy(
        colored_logits_BP[shown_B], kind_B[shown_B] * len(OBJECT_COLORS) + color_B[shown_B]
    )
    # A batch without any background crop would give the mean of nothing, which is NaN.
    if not bool(shown_B.all()):
        loss = loss - 0.2 * functional.log_softmax(kind_logits_BP[~shown_B], dim=-1).mean()
    return loss


@torch.no_grad()
def measure_clip(model: CLIPModel, tokenizer: Any, data: TrainingSet) -> dict[str, float]:
    """What a tiny CLIP can do on held-out ``data``.

    Returns:
        ``naming`` (share of crops whose kind is named right) and ``naming_KIND``; ``color`` (given
        the kind, color named right); ``confidence_object`` and ``confidence_nothing`` (mean highest
        probability over the kinds); ``retrieval_at_1`` (of a caption with everything named among
        100 images).
    """
    phrase_PL = torch.from_numpy(tokenize(tokenizer, [_phrases()[0]])[0])
    text_PD = functional.normalize(_text(model, phrase_PL), dim=-1)
    image_BD = _image(model, data.crops_NHWC)
    logits_BP = (model.logit_scale.exp() * image_BD @ text_PD.T).numpy()
    kinds_BP, colored_BPC = (
        logits_BP[:, : len(KINDS)],
        logits_BP[:, len(KINDS) :].reshape(-1, len(KINDS), len(OBJECT_COLORS)),
    )
    shown_B = data.crop_kinds_N != NOTHING
    truth_B = data.crop_kinds_N[shown_B]
    right_B = kinds_BP[shown_B].argmax(axis=1) == truth_B
    result = {"naming": float(right_B.mean())}
    result |= {
        f"naming_{kind}": float(right_B[truth_B == k].mean())
        for k, kind in enumerate(KINDS)
        if (truth_B == k).any()
    }
    color_B = colored_BPC[shown_B][np.arange(len(truth_B)), truth_B].argmax(axis=1)
    result["color"] = float((color_B == data.crop_colors_N[shown_B]).mean())
    confidence_B = torch.from_numpy(kinds_BP).softmax(dim=-1).amax(dim=-1).numpy()
    result["confidence_object"] = float(confidence_B[shown_B].mean())
    result["confidence_nothing"] = float(confidence_B[~shown_B].mean()) if (~shown_B).any() else 0.0
    captions = torch.from_numpy(tokenize(tokenizer, [row[:1] for row in data.captions])[:, 0])
    image_BD, text_BD = (
        _image(model, data.images_NHWC),
        functional.normalize(_text(model, captions), dim=-1),
    )
    # Always so many, and a smaller rest is dropped: the chance to hit depends on the pool's size.
    pool = min(100, len(captions))
    hits = [
        (text_BD[i : i + pool] @ image_BD[i : i + pool].T).argmax(dim=1) == torch.arange(pool)
        for i in range(0, len(captions) - pool + 1, pool)
    ]
    result["retrieval_at_1"] = float(torch.cat(hits).float().mean())
    return {name: round(value, 4) for name, value in result.items()}


def _image(model: CLIPModel, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    chunks = [images_BHWC[i : i + 256] for i in range(0, len(images_BHWC), 256)]
    pooled_BD = torch.cat(
        [
            model.visual_projection(model.vision_model(to_pixels(chunk)).pooler_output)
            for chunk in chunks
        ]
    )
    return functional.normalize(pooled_BD, dim=-1)


def text_half(model: CLIPModel) -> CLIPTextModel:
    """A copy of the text half, as Stable Diffusion wants it."""
    text_encoder = CLIPTextModel(copy.deepcopy(model.config.text_config))
    state = {name: tensor.clone() for name, tensor in model.text_model.state_dict().items()}
    # Some versions of transformers wrap the text transformer, in others the class is the
    # transformer itself.
    target = text_encoder.text_model if hasattr(text_encoder, "text_model") else text_encoder
    target.load_state_dict(state)
    return text_encoder


def save_clip(model: CLIPModel, tokenizer: Any, folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` open, in
    half precision."""
    # Back to single precision at once: training and measuring go on with this model.
    model.half().save_pretrained(folder)
    model.float()
    processor = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        resample=2,  # PIL bilinear, as the crops were trained
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
