"""What people give in place of a Stable Diffusion is told without torch, by what it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from boig_core.errors import InputError
from boig_core.models import MODELS_FOLDER, model_version
from boig_core.models.diffusion import check_diffusion_model
from boig_core.models.sd_folder import part_weights

VALUE = "sd.base = 'a/b'"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n"
UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS_FOLDER / "tiny-sd", tmp_path / "base"))


def change(base: Path, file: str, **settings: Any) -> None:
    content = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps({**content, **settings}))


def refused(base: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        check_diffusion_model(str(base), VALUE)
    assert caught.value.value.startswith(VALUE)
    assert "\n" not in str(caught.value)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (INDEX, {"_class_name": "FluxPipeline"}, "is a FluxPipeline, which boig cannot train"),
    (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "is a StableDiffusion3Pipeline"),
    (INDEX, {"_class_name": ["own", "Pipeline"]}, r"is a \['own', 'Pipeline'\]"),
    (INDEX, {"_class_name": None}, "is a None"),
    (INDEX, {"unet": ["own", "Model"]}, "has a unet of class Model"),
    (INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "of class T5EncoderModel"),
    (INDEX, {"text_encoder": [None, None]}, "has no text_encoder"),
    (INDEX, {"vae": None}, "has no vae"),
    (UNET, {"in_channels": 9}, "is an inpainting model"),
    (UNET, {"in_channels": 8}, "is an instruct-pix2pix model"),
    (UNET, {"out_channels": 8}, "takes 4 channels, and gives 8"),
    (UNET, {"in_channels": 16, "out_channels": 16}, "16 channels, and an autoencoder of 4"),
    (UNET, {"num_class_embeds": 10}, r"takes classes \(num_class_embeds = 10\)"),
    (UNET, {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
    (UNET, {"class_embed_type": "unheard-of"}, "class_embed_type = 'unheard-of'"),
    (UNET, {"addition_embed_type": "image"}, "addition_embed_type is 'image'"),
    (UNET, {"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
    (UNET, {"encoder_hid_dim": 4096}, "encoder_hid_dim = 4096"),
    (UNET, {"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
    (UNET, {"sample_size": [8, 12]}, r"not square: sample_size of its UNet is \[8, 12\]"),
    (UNET, {"sample_size": None}, "sample_size is None"),
    (UNET, {"sample_size": "8"}, "sample_size is 8"),
    (UNET, {"sample_size": 0}, "sample_size is 0"),
    (UNET, {"sample_size": [8, 8, 8]}, "sample_size is"),
    (UNET, {"cross_attention_dim": 768}, "width 64 in all, and its UNet reads 768"),
    (UNET, {"cross_attention_dim": [64, 32]}, "its UNet reads 32, 64"),
    (UNET, {"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantized \(bitsandbytes"),
    (TEXT, {"quantization_config": {"quant_method": "awq"}}, r"text_encoder that is quantized"),
    (VAE, {"latent_channels": 16}, "an autoencoder of 16"),
    (VAE, {"in_channels": 1}, "an autoencoder whose in_channels is 1"),
    (VAE, {"shift_factor": 0.1159}, "shift_factor is 0.1159"),
    (VAE, {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "latents_mean"),
    (SCHEDULER, {"prediction_type": "sample"}, "prediction_type of its scheduler is sample"),
    (SCHEDULER, {"prediction_type": "flow"}, "prediction_type of its scheduler is flow"),
    (SCHEDULER, {"rescale_betas_zero_snr": True}, "zero terminal SNR.*rescale_betas_zero_snr"),
    (SCHEDULER, {"num_train_timesteps": 1}, "num_train_timesteps is 1"),
    (SCHEDULER, {"_class_name": "LCMScheduler"}, "is a consistency model"),
    (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "denoises by FlowMatch"),
    (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "denoises by EDMEulerScheduler"),
]


@pytest.mark.parametrize(("file", "settings", "match"), REFUSED, ids=lambda case: str(case)[:40])
def test_a_model_that_takes_something_else_is_refused_by_name(
    base: Path, file: str, settings: dict[str, Any], match: str
) -> None:
    change(base, file, **settings)
    refused(base, match)


@given(
    file=st.sampled_from([INDEX, UNET, VAE, TEXT, SCHEDULER]),
    pick=st.integers(0, 1000),
    value=st.sampled_from([None, [], {}, "x", -1, 0, 1.5, True, [1, "a"], {"a": []}, [None]]),
)
def test_a_setting_of_any_type_is_at_most_one_error(
    file: str, pick: int, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp() / "any-setting"
    if not base.exists():
        shutil.copytree(MODELS_FOLDER / "tiny-sd", base)
    before = (base / file).read_bytes()
    names = sorted(json.loads(before))
    change(base, file, **{names[pick % len(names)]: value})
    try:
        check_diffusion_model(str(base), VALUE)
    except InputError as exc:
        assert "\n" not in str(exc)  # noqa: PT017 - it may pass as well
    finally:
        (base / file).write_bytes(before)


def test_v_prediction_with_zero_terminal_snr_and_a_pair_of_equal_sides_pass(base: Path) -> None:
    change(base, SCHEDULER, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    change(base, UNET, sample_size=[8, 8])
    check_diffusion_model(str(base), VALUE)


@pytest.mark.parametrize(
    "file",
    [
        INDEX,
        SCHEDULER,
        UNET,
        VAE,
        TEXT,
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    ],
)
@pytest.mark.parametrize("how", ["pointer", "cut", "empty", "missing"])
def test_a_file_that_is_not_there_whole_is_told(base: Path, file: str, how: str) -> None:
    path = base / file
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        harmed = {"pointer": POINTER, "cut": content[: len(content) // 2], "empty": b""}
        path.write_bytes(harmed[how])
    refused(base, {"pointer": "Git LFS pointer", "empty": "empty"}.get(how, "holds|lacks|has no"))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_told(base: Path, part: str) -> None:
    shutil.rmtree(base / part)
    refused(base, rf"{part}.*give a whole")


def only_settings(content: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(content))


def only_file(name: str) -> Callable[[Path], object]:
    return lambda folder: save_file({"a": np.zeros(2)}, folder / name)


@pytest.mark.parametrize(
    ("fill", "match"),
    [
        (only_settings({"_class_name": "ControlNetModel"}), "is a ControlNetModel alone"),
        (only_settings({"_class_name": "UNet2DConditionModel"}), "is a UNet2DConditionModel alone"),
        (only_settings({"model_type": "llama"}), "it is a llama without a model_index"),
        (only_file("pytorch_lora_weights.safetensors"), "is a LoRA alone"),
        (only_file("learned_embeds.safetensors"), "is a textual inversion alone"),
        (only_file("v1-5.safetensors"), "give its file v1-5.safetensors"),
        (lambda folder: None, "it has no model_index.json"),
    ],
    ids=["controlnet", "unet", "llama", "lora", "embedding", "file", "nothing"],
)
def test_a_folder_of_something_else_is_called_what_it_is(
    fill: Callable[[Path], object], match: str, tmp_path: Path
) -> None:
    fill(tmp_path)
    refused(tmp_path, match)


WHOLE = {
    "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 1, 1),
    "first_stage_model.quant_conv.weight": (4,),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (4, 4),
}
TEXT_OF_2 = {"cond_stage_model.model.token_embedding.weight": (4, 4)}
UNET_AND_VAE = {name: shape for name, shape in WHOLE.items() if "cond_stage" not in name}


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": (1, 2)}, "is a LoRA"),
        ({"unet.down_blocks.0.to_q.lora_A.weight": (1, 2)}, "is a LoRA"),
        ({"lora_unet_mid_block.hada_w1_a": (1, 2)}, "is a LoRA"),
        ({"control_model.time_embed.0.weight": (2, 2)}, "is a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (2, 2)}, "is a ControlNet"),
        ({"image_proj.norm.weight": (2,), "ip_adapter.1.to_k.weight": (2, 2)}, "IP-Adapter"),
        ({"emb_params": (2, 768)}, "is a textual inversion"),
        ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "is a textual inversion"),
        ({"decoder.conv_in.weight": (2, 2), "encoder.conv_in.weight": (2, 2)}, "an autoencoder"),
        ({"down_blocks.0.resnets.0.conv1.weight": (2, 2, 1, 1)}, "is a UNet alone"),
        ({"text_model.embeddings.token_embedding.weight": (2, 2)}, "is a text encoder alone"),
        ({"double_blocks.0.img_attn.qkv.weight": (2, 2)}, "is a Flux"),
        ({"model.diffusion_model.joint_blocks.0.x.weight": (2, 2)}, "Stable Diffusion 3"),
        ({f"layer.{n}.weight": (2, 2) for n in range(9)}, "no model that boig knows"),
        (UNET_AND_VAE, "holds no text encoder"),
        ({name: shape for name, shape in WHOLE.items() if "first" not in name}, "no autoencoder"),
        ({**WHOLE, "model.diffusion_model.input_blocks.0.0.weight": (4, 9, 1, 1)}, "inpainting"),
        ({**WHOLE, "model.diffusion_model.input_blocks.0.0.weight": (4, 8, 1, 1)}, "pix2pix"),
        ({**UNET_AND_VAE, **TEXT_OF_2}, "whether it predicts epsilon or v"),
        ({**WHOLE, "conditioner.embedders.0.model.ln_final.weight": (2,)}, "refiner of SDXL"),
    ],
    ids=lambda case: str(next(iter(case)))[:40] if isinstance(case, dict) else case[:20],
)
def test_a_file_of_something_else_is_called_what_it_is(
    weights: dict[str, tuple[int, ...]], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, path)
    refused(path, match)


@pytest.mark.parametrize("marks", [{}, {"v_pred": (0,)}], ids=["1.x", "2.x with its prediction"])
def test_a_whole_model_in_one_file_passes(
    marks: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    weights = {**UNET_AND_VAE, **TEXT_OF_2, **marks} if marks else WHOLE
    path = tmp_path / "a.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, path)
    check_diffusion_model(str(path), VALUE)


@pytest.mark.parametrize("content", [POINTER, b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_that_is_not_there_whole_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path, "holds")


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_refused_by_name(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"PK")
    refused(path, rf"is a pickle \({ending}\).*give the same model as \.safetensors")


@pytest.mark.parametrize(
    ("ref", "match"),
    [
        ("/nowhere/model.ckpt", "is not a folder with a model"),
        ("https://huggingface.co/x/y/resolve/main/v1-5.safetensors", "is a web address"),
    ],
)
def test_a_reference_that_leads_nowhere_here_is_refused(ref: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_diffusion_model(ref, VALUE)


@pytest.mark.parametrize("ref", ["s3://models/sd15", "org/name", "package:tiny-sd"])
def test_what_lies_elsewhere_is_let_pass(ref: str) -> None:
    check_diffusion_model(ref, VALUE)


@pytest.mark.parametrize(
    ("names", "chosen", "variant"),
    [
        (("m.safetensors", "m.fp16.safetensors"), ["m.safetensors"], None),
        (("m.bin", "m.fp16.safetensors"), ["m.bin"], None),
        (("m.fp16.safetensors",), ["m.fp16.safetensors"], "fp16"),
        (("m.fp16.bin",), ["m.fp16.bin"], "fp16"),
        (("m.bf16.safetensors", "m.fp16.safetensors"), ["m.fp16.safetensors"], "fp16"),
        (("m.bf16.safetensors",), ["m.bf16.safetensors"], "bf16"),
    ],
)
def test_full_weights_come_before_a_variants(
    names: tuple[str, ...], chosen: list[str], variant: str | None, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()

    def real(name: str) -> str:
        return name.replace("m.", "diffusion_pytorch_model.", 1)

    for name in (*map(real, names), "LICENSE", ".gitattributes"):
        (tmp_path / "unet" / name).write_bytes(b"x")
    files, taken = part_weights(tmp_path, "unet", VALUE)
    assert [path.name for path in files] == list(map(real, chosen))
    assert taken == variant


def test_two_variants_without_full_weights_are_a_question(base: Path) -> None:
    weights = base / "unet/diffusion_pytorch_model.safetensors"
    for variant in ("bf16", "non_ema"):
        shutil.copy(weights, weights.with_suffix(f".{variant}.safetensors"))
    weights.unlink()
    refused(base, "several variants of unet, bf16, non_ema")


def test_a_file_has_a_version_as_a_folder_has(tmp_path: Path) -> None:
    versions = set()
    for content in (b"a", b"b"):
        path = tmp_path / f"{content.decode()}.safetensors"
        path.write_bytes(content)
        versions.add(model_version(str(path)))
    assert len(versions) == 2


def test_a_look_at_an_image_model_needs_no_torch() -> None:
    code = """
import sys
from boig_core.models.diffusion import check_diffusion_model
check_diffusion_model("package:tiny-sd", "")
print({"torch", "diffusers", "transformers"} & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
