"""The aesthetic head against plain torch, on a CLIP and heads with random weights."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from boig_core.config import Aesthetic
from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.evaluation.measure.aesthetic import AestheticJudge
from boig_core.evaluation.measure.judges import ClipJudge

IMAGES = np.random.default_rng(0).integers(0, 255, size=(5, 20, 20, 3), dtype=np.uint8)


class Several(torch.nn.Module):
    """Layers with dropout between them, as a training leaves them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (12, 16, 14, 10, 8, 1)
        pairs = [(torch.nn.Linear(i, o), torch.nn.Dropout(0.2)) for i, o in pairwise(sizes)]
        self.layers = torch.nn.Sequential(*(module for pair in pairs for module in pair))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("make", [Several, lambda: torch.nn.Linear(12, 1)])
def test_scores_are_those_of_the_head_in_plain_torch(
    clip_folder: Path, tmp_path: Path, make: type, suffix: str
) -> None:
    torch.manual_seed(1)
    head = make().eval()
    path = tmp_path / f"head{suffix}"
    if suffix == ".pth":
        torch.save(head.state_dict(), path)
    else:
        save_file(head.state_dict(), path)
    judge = AestheticJudge(Aesthetic(clip=str(clip_folder), head=str(path)))
    model, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPImageProcessorPil.from_pretrained(clip_folder),
    )
    with torch.no_grad():
        pixels = processor([Image.fromarray(image) for image in IMAGES], return_tensors="pt")[
            "pixel_values"
        ]
        embedding = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        unit = embedding / embedding.norm(dim=-1, keepdim=True)
        expected = (head.layers(unit) if isinstance(head, Several) else head(unit))[:, 0]
    result = judge.score(judge.clip.see(IMAGES))
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert result.std() > 1e-4


def test_a_file_that_is_no_head_for_this_clip_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    clip, path = ClipJudge(str(clip_folder)), tmp_path / "head.pth"

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            AestheticJudge(Aesthetic(clip=str(clip_folder), head=str(path)), clip)

    torch.save(torch.nn.Linear(11, 1).state_dict(), path)
    refused("width 11, and those of .* have 12")
    torch.save(torch.nn.Linear(12, 2).state_dict(), path)
    refused("one number")
    torch.save({"layers.0.weight": torch.zeros(4, 12), "layers.0.bias": torch.zeros(4), "layers.1.weight": torch.zeros(1, 5),
                "layers.1.bias": torch.zeros(1)}, path)  # fmt: skip
    refused("no head of linear layers")
    torch.save({**torch.nn.Linear(12, 1).state_dict(), "running_mean": torch.zeros(1)}, path)
    refused("not weights and biases alone")
    path.write_bytes(b"neither this nor that")
    refused("no head of linear layers")
    with pytest.raises(NotFoundInStoreError):
        AestheticJudge(Aesthetic(clip=str(clip_folder), head=str(tmp_path / "nowhere.pth")), clip)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_nothing_but_tensors_is_unpickled(clip_folder: Path, tmp_path: Path) -> None:
    path, target = tmp_path / "head.pth", tmp_path / "touched"
    torch.save({"weight": Harmful(target)}, path)
    with pytest.raises(InputError):
        AestheticJudge(Aesthetic(clip=str(clip_folder), head=str(path)))
    path.write_bytes(pickle.dumps(Harmful(target)))
    with pytest.raises(InputError):
        AestheticJudge(Aesthetic(clip=str(clip_folder), head=str(path)))
    assert not target.exists()
