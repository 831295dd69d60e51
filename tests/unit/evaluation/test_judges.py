from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from boig_core.errors import InputError
from boig_core.evaluation.judges import ClipJudge


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights, as transformers saves one."""
    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", "red</w>", "ball</w>", "box</w>", "r", "e", "d", "b", "a", "l", "o", "x"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[("r", "e"), ("re", "d</w>")][:0], model_max_length=16)
    torch.manual_seed(0)
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False).save_pretrained(folder)
    return folder


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    images = np.random.default_rng(0).integers(0, 255, size=(70, 32, 32, 3), dtype=np.uint8)
    seen = judge.see(images)
    assert seen.embedding_ND.shape == (70, 12)
    assert seen.features_NF.shape == (70, 24)
    np.testing.assert_allclose(np.linalg.norm(seen.embedding_ND, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(judge.see(images[65:66]).embedding_ND, seen.embedding_ND[65:66], atol=1e-5)
    assert np.abs(seen.features_NF[0] - seen.features_NF[1]).max() > 1e-3


def test_texts_are_read_one_by_one_whatever_their_length(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    read = judge.read(["red ball", "red box", "red ball box " * 40])
    assert read.shape == (3, 12)
    np.testing.assert_allclose(judge.read(["red ball"])[0], read[0], atol=1e-5)


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not open as a CLIP"):
        ClipJudge(str(tmp_path))
