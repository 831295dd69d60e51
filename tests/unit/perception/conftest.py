"""Small checkpoints of the real architectures, with random weights, saved with their tokenizers and
processors as a hub would hold them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

_TEXT = """
a ball box cat cup dog flag hat in is lamp large moon of on photo red small star sun table tent the this tree image describe one sentence
"""
WORDS = _TEXT.split()
SIDE = 64


def _pictures(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Images of many sizes: smooth colors with a rectangle each."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        height, width = (int(edge) for edge in rng.integers(40, 120, 2))
        image = np.empty((height, width, 3), np.uint8)
        image[:] = rng.integers(0, 256, 3)
        image[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)
        image[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
        result.append(image)
    return result


@pytest.fixture(scope="session")
def pictures() -> Callable[[int], list[NDArray[np.uint8]]]:
    return _pictures


def roughen(model: Any, scale: float, seed: int = 0) -> None:
    """Noise on every weight: the published initialization zeroes heads, so that nothing would
    depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def bert_tokenizer() -> Any:
    """BERT's special ids, which Grounding DINO has built in, and a few words."""
    from transformers import BertTokenizer

    vocab = {f"[unused{index}]": index for index in range(1030)}
    names = {
        0: "[PAD]",
        100: "[UNK]",
        101: "[CLS]",
        102: "[SEP]",
        103: "[MASK]",
        1012: ".",
        1029: "?",
    }
    vocab = {names.get(index, token): index for token, index in vocab.items()}
    vocab |= {word: 1030 + index for index, word in enumerate([*WORDS, "##s", "[DEC]"])}
    return BertTokenizer(vocab=vocab, bos_token="[DEC]")


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=SIDE,
            embed_dim=16,
            depths=[1, 1, 1],
            num_heads=[1, 2, 2],
            window_size=4,
            out_indices=[1, 2, 3],
            drop_path_rate=0.0,
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=24,
    )
    model = GroundingDinoForObjectDetection(config)
    roughen(model, 0.08)
    folder = tmp_path_factory.mktemp("grounding-dino")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GroundingDinoImageProcessorPil(
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def owlv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The end of a text has the highest id, by which the model finds it.
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], pad_token="!"
    )
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Owlv2Config(
        text_config={
            **sizes,
            "vocab_size": len(tokens),
            "max_position_embeddings": 24,
            "bos_token_id": len(tokens) - 2,
            "eos_token_id": len(tokens) - 1,
        },
        vision_config={**sizes, "image_size": SIDE, "patch_size": 16},
        projection_dim=32,
    )
    model = Owlv2ForObjectDetection(config)
    roughen(model, 0.1)
    with torch.no_grad():
        for head in (
            model.class_head,
            model.box_head,
        ):  # initialized for widths where these do not saturate
            for parameter in head.parameters():
                parameter.mul_(0.2)
    folder = tmp_path_factory.mktemp("owlv2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = BlipConfig(
        text_config={
            **sizes,
            "encoder_hidden_size": 32,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "bos_token_id": len(tokenizer) - 1,
            "eos_token_id": 2,
            "sep_token_id": 102,
            "pad_token_id": 0,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    model = BlipForConditionalGeneration(config)
    roughen(model, 0.3)
    folder = tmp_path_factory.mktemp("blip")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokens = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "ASSISTANT", ":", *WORDS]
    raw = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8),
        text_config=LlamaConfig(
            **sizes,
            vocab_size=len(tokens),
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        image_token_index=tokens.index("<image>"),
        image_seq_length=16,
    )
    model = LlavaForConditionalGeneration(config)
    roughen(model, 0.2)
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    return folder
