"""What cannot be published is refused before it is trained, and what can be is left as it was."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from boig_core.config import Recipe
from boig_core.diffusion.finetune import ImageExamples, finetune
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import LORA_FILE, make_trainable, merge, write_lora
from boig_core.diffusion.pipeline import load_base
from boig_core.diffusion.rehearsal import rehearse
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.errors import RecipeError
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

ROOM = "boig_core.diffusion.rehearsal"


def on_base(recipe: Recipe, **sd: Any) -> Recipe:
    return recipe.model_copy(update={"sd": recipe.sd.model_copy(update=sd)})


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 1, 16])
def test_a_sound_policy_passes_and_stays_as_it_was(
    recipe: Recipe, sdxl: str, family: str, dtype: str, rank: int | None
) -> None:
    base = recipe.sd.base if family == "sd" else sdxl
    pipe: Any = load_base(on_base(recipe, base=base, dtype=dtype).sd)
    make_trainable(pipe.unet, rank, 0)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    random, trainable = torch.random.get_rng_state(), trainable_names(pipe)
    rehearse(pipe, base)
    after = pipe.unet.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert before.keys() == after.keys()
    assert trainable_names(pipe) == trainable
    assert torch.equal(torch.random.get_rng_state(), random)


def trainable_names(pipe: Any) -> list[str]:
    return [name for name, parameter in pipe.unet.named_parameters() if parameter.requires_grad]


def losing(write: Callable[..., None], lost: str) -> Callable[..., None]:
    """A LoRA's file without some of its layers, as a layout that programs read in part."""

    def spoilt(pipe: Any, folder: Path, title: str) -> None:
        write(pipe, folder, title)
        file = folder / LORA_FILE
        save_file({name: w for name, w in load_file(file).items() if lost not in name}, file)

    return spoilt


def renamed(write: Callable[..., None]) -> Callable[..., None]:
    def spoilt(pipe: Any, folder: Path, title: str) -> None:
        write(pipe, folder, title)
        file = folder / LORA_FILE
        save_file({f"mine_{name}": weight for name, weight in load_file(file).items()}, file)

    return spoilt


def without_numbers(unet: Any) -> None:
    merge(unet)
    unet.conv_out.weight = torch.nn.Parameter(unet.conv_out.weight * torch.nan)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a LoRA without attention": lambda m: m.setattr(
        f"{ROOM}.write_lora", losing(write_lora, "_attn")
    ),
    "a LoRA without feed-forwards": lambda m: m.setattr(
        f"{ROOM}.write_lora", losing(write_lora, "_ff_")
    ),
    "a LoRA of unknown names": lambda m: m.setattr(
        f"{ROOM}.write_lora", renamed(write_lora)
    ),
    "a merge that does nothing": lambda m: m.setattr(
        f"{ROOM}.merge", lambda unet: unet.unload_lora()
    ),
    "a merge that keeps the LoRA": lambda m: m.setattr(f"{ROOM}.merge", lambda unet: None),
    "a merge to no numbers": lambda m: m.setattr(f"{ROOM}.merge", without_numbers),
    "a merge that raises": lambda m: m.setattr(
        UNet2DConditionModel, "fuse_lora", lambda *_, **__: torch.zeros(2) @ torch.zeros(3)
    ),
    "settings that make another UNet": lambda m: m.setattr(
        UNet2DConditionModel,
        "load_config",
        lambda *_, real=UNet2DConditionModel.load_config, **__: {
            **real(*_, **__), "use_linear_projection": not real(*_, **__)["use_linear_projection"]
        },
    ),
    "a folder that does not open": lambda m: m.setattr(
        DiffusionPipeline, "save_config", lambda self, folder: Path(folder).mkdir()
    ),
    "a call that raises": lambda m: m.setattr(
        StableDiffusionPipeline, "encode_prompt", lambda *_, **__: [][0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("lost", ["_attn2_to_k", "_ff_net_2", "mid_block"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lora_that_loads_in_part_is_refused_in_any_precision(
    recipe: Recipe, lost: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = on_base(recipe, dtype=dtype)
    pipe: Any = load_base(recipe.sd)
    make_trainable(pipe.unet, 4, 0)
    monkeypatch.setattr(f"{ROOM}.write_lora", losing(write_lora, lost))
    with pytest.raises(RecipeError, match=r"[1-9]\d* layers of the LoRA are lost, such as"):
        rehearse(pipe, recipe.sd.base)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_another_program_would_not_open_is_refused(
    recipe: Recipe, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe: Any = load_base(recipe.sd)
    make_trainable(pipe.unet, 4, 0)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    FAULTS[fault](monkeypatch)
    with pytest.raises(RecipeError, match=r"sd\.base = package:tiny-sd: cannot be published"):
        rehearse(pipe, recipe.sd.base)
    after = pipe.unet.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "disk")]
)
def test_a_full_device_is_no_fault_of_the_recipe(
    recipe: Recipe, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    pipe: Any = load_base(recipe.sd)
    make_trainable(pipe.unet, 4, 0)
    monkeypatch.setattr(f"{ROOM}.write_lora", full)
    with pytest.raises(type(error)):
        rehearse(pipe, recipe.sd.base)


class NeverAsked:
    def score(self, images: Any, samples: Sequence[Sample]) -> Any:
        raise AssertionError("something was sampled")


@pytest.mark.parametrize("stage", ["finetune_sd", "ddpo"])
def test_trainings_are_refused_before_their_first_step(
    recipe: Recipe,
    samples: list[Sample],
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{ROOM}.write_lora", losing(write_lora, "_attn"))
    recipe = on_base(recipe, steps=2, batch=2, lora_rank=4)
    checkpoints = Checkpoints(str(tmp_path), 1)
    rows: list[int] = []

    def ddpo() -> None:
        rollouts = LocalRollouts(Sampler(recipe), NeverAsked())
        Learner(recipe, samples, rollouts, checkpoints, lambda *_: rows.append(1)).fit()

    def finetune_sd() -> None:
        examples = ImageExamples(np.zeros((2, 32, 32, 3), np.uint8), ["a", "b"])
        finetune(recipe, examples, checkpoints, lambda *_: rows.append(1))

    with pytest.raises(RecipeError, match="cannot be published"):
        {"ddpo": ddpo, "finetune_sd": finetune_sd}[stage]()
    assert rows == []
