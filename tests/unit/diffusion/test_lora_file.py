"""The published LoRA: programs that load LoRAs find a layer for each of its keys, and diffusers
makes the merged model's image with it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from boig_core.diffusion.card import sd_card
from boig_core.diffusion.lora import (
    LORA_FILE,
    TARGETS,
    make_trainable,
    merge,
    save_policy,
    write_lora,
)
from boig_core.diffusion.pipeline import latent_shape, load_pipeline
from boig_core.diffusion.sample import sample_latents

# Shapes of the published models, without weights: Stable Diffusion 1.x, 2.x and XL.
SHARED: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MODELS = {
    "sd1": {**SHARED, "cross_attention_dim": 768},
    "sd2": {**SHARED, "cross_attention_dim": 1024, "use_linear_projection": True},
    "sdxl": XL,
}


class Scheduler:
    class config:
        prediction_type = "epsilon"


class Shell:
    """What `write_lora` asks of a pipeline."""

    def __init__(self, unet: Any, *, second: bool) -> None:
        self.unet, self.scheduler, self.vae_scale_factor = unet, Scheduler, 8
        self.components = {"text_encoder_2": None} if second else {}


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def stems(names: Any) -> set[str]:
    ends = (".lora_down.weight", ".lora_up.weight")
    assert all(name.endswith(ends) for name in names)
    return {name.removesuffix(ends[0]).removesuffix(ends[1]) for name in names}


def comfy_names(layers: list[str]) -> set[str]:
    """What ComfyUI calls a UNet's layers, by their names in diffusers."""
    known = {"lora_unet_" + name.replace(".", "_") for name in layers}
    for name in layers:
        attention = name.replace(".to_", ".processor.to_")
        known |= {p + attention.removesuffix(".0") for p in ("", "unet.")}
    return known


def compvis_name(stem: str, per_block: int) -> str:
    """A web UI's name, that of the original code, for a layer of a file: blocks count from the
    first convolution on, and a block holds its layers and one that changes the size."""
    if match := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_attentions_(\d+)_(.+)", stem):
        side, block, layer, rest = match[1], int(match[2]), int(match[3]), match[4]
        number = block * (per_block + 1) + layer + (side == "down")
        part = "input" if side == "down" else "output"
        return f"diffusion_model_{part}_blocks_{number}_1_{rest}"
    middle = re.fullmatch(r"lora_unet_mid_block_attentions_0_(.+)", stem)
    assert middle, stem
    return f"diffusion_model_middle_block_1_{middle[1]}"


def original_blocks(name: str) -> set[str]:
    """Blocks of the original code that hold transformers."""
    numbers = {
        "sd1": ([1, 2, 4, 5, 7, 8], [3, 4, 5, 6, 7, 8, 9, 10, 11]),
        "sdxl": ([4, 5, 7, 8], [0, 1, 2, 3, 4, 5]),
    }[name.replace("sd2", "sd1")]
    places = [f"input_blocks_{n}_1" for n in numbers[0]]
    places += ["middle_block_1", *(f"output_blocks_{n}_1" for n in numbers[1])]
    return {f"diffusion_model_{place}" for place in places}


@pytest.mark.parametrize("model", MODELS)
def test_programs_find_a_layer_for_every_key(model: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**MODELS[model]})
    layers = [name for name, part in unet.named_modules() if hasattr(part, "weight")]
    targets = [name for name in layers if name.endswith(tuple(TARGETS))]
    with torch.device("meta"):
        make_trainable(unet, 2, 0)
    # The weights do not matter here, and the LoRA's have to be somewhere.
    for name, parameter in unet.named_parameters():
        if parameter.requires_grad:
            parent = unet.get_submodule(name.rpartition(".")[0])
            parent.weight = torch.nn.Parameter(torch.ones(parameter.shape))
    write_lora(Shell(unet, second=model == "sdxl"), tmp_path, "mine")
    weights, about = read(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(weights) == 2 * len(targets) > 200
    assert stems(weights) <= comfy_names(layers)
    assert len(stems(weights)) == len(targets)
    in_webui = {compvis_name(stem, 2) for stem in stems(weights)}
    assert len(in_webui) == len(targets)
    blocks = {
        re.split(r"_(?:proj_in|proj_out|transformer_blocks_.+)$", name)[0] for name in in_webui
    }
    assert blocks == original_blocks(model)
    assert about["ss_base_model_version"] == {
        "sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"
    }[model]  # fmt: skip
    assert about["ss_v2"] == str(model == "sd2")
    assert about["ss_network_dim"] == about["ss_network_alpha"] == "2"
    assert about["modelspec.title"] == "mine"


def trained(base: str, rank: int) -> Any:
    """A policy with an adapter that changes its images."""
    pipe = load_pipeline(base)
    make_trainable(pipe.unet, rank, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return pipe


@pytest.fixture(params=["conv", "linear", "sdxl"])
def base(request: pytest.FixtureRequest, sdxl: str, tmp_path: Path) -> str:
    """Bases whose projections are convolutions, or linear; and an SDXL."""
    if request.param == "sdxl":
        return sdxl
    pipe = load_pipeline("package:tiny-sd")
    config = {**pipe.unet.config, "use_linear_projection": request.param == "linear"}
    torch.manual_seed(0)
    pipe.register_modules(unet=UNet2DConditionModel.from_config(config))
    pipe.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("rank", [1, 4])
def test_diffusers_loads_the_whole_lora(base: str, rank: int, tmp_path: Path) -> None:
    pipe = trained(base, rank)
    start = torch.randn((1, *latent_shape(pipe)), generator=torch.Generator().manual_seed(2))

    def latents(model: Any) -> torch.Tensor:
        return sample_latents(model, ["a red ball"], start, 4, 1.0)

    policy = latents(pipe)
    save_policy(pipe, tmp_path / "out", lora=True)
    merged = latents(DiffusionPipeline.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(merged, policy, rtol=0, atol=1e-4)
    fresh = load_pipeline(base)
    before = latents(fresh)
    assert (before - policy).abs().max() > 0.1
    fresh.load_lora_weights(tmp_path / "out" / "lora")
    torch.testing.assert_close(latents(fresh), policy, rtol=0, atol=1e-4)
    fresh.unload_lora_weights()
    assert torch.equal(latents(fresh), before)
    weights, _ = read(tmp_path / "out" / "lora" / "pytorch_lora_weights.safetensors")
    layers = [name for name, part in fresh.unet.named_modules() if hasattr(part, "weight")]
    assert stems(weights) <= comfy_names(layers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_published_is_float32_whatever_the_base_is(
    dtype: str, sdxl: str, tmp_path: Path
) -> None:
    """Base files in half precision; the sums of weights and adapter are not rounded to it."""
    base = DiffusionPipeline.from_pretrained(sdxl, dtype=getattr(torch, dtype))
    base.save_pretrained(tmp_path / "base")
    save_policy(trained(str(tmp_path / "base"), 2), tmp_path / "out", lora=True)
    files = [f for f in (tmp_path / "out").rglob("*") if f.suffix in (".safetensors", ".bin")]
    assert {file.suffix for file in files} == {".safetensors"}
    assert len(files) == 5
    for file in files:
        assert {weight.dtype for weight in read(file)[0].values()} == {torch.float32}, file
    for config in (tmp_path / "out").glob("text_encoder*/config.json"):
        assert '"dtype": "float32"' in config.read_text()


def test_a_merge_that_overflows_is_no_model() -> None:
    pipe = trained("package:tiny-sd", 1)
    with torch.no_grad():
        next(p for n, p in pipe.unet.named_parameters() if "lora_B" in n).fill_(torch.inf)
    with pytest.raises(ValueError, match="NaN"):
        merge(pipe.unet)


@pytest.mark.parametrize("rank", [None, 8])
def test_the_card_says_how_the_model_is_used(rank: int | None) -> None:
    card = sd_card("boigsd", "ORG/base", rank, {"base": "ORG/base", "epochs": 3})
    assert 'DiffusionPipeline.from_pretrained("this-folder")' in card
    assert '"epochs": 3' in card
    used = (f"lora/{LORA_FILE}", "models/loras/boigsd.safetensors", "<lora:boigsd:1>")
    assert all((words in card) is (rank is not None) for words in used)
