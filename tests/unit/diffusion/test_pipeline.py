"""A pipeline opens from every kind of reference and moves between text, latents and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from boig_core.adworld.tiny_models import data
from boig_core.diffusion.pipeline import (
    Prompts,
    decode,
    encode_images,
    encode_prompts,
    latent_shape,
    load_pipeline,
)
from boig_core.errors import InputError
from boig_core.models import MODELS_FOLDER, SHIPPED, resolve_model, ships


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return load_pipeline("package:tiny-sd")


def test_pipeline_is_ready_for_sampling(pipe: StableDiffusionPipeline) -> None:
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert not pipe.scheduler.config.clip_sample
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.float32}
    assert not pipe.unet.training
    assert not pipe.text_encoder.training
    assert latent_shape(pipe) == (4, 8, 8)
    assert pipe.vae_scale_factor * pipe.unet.config.sample_size == 32


def test_prompts_become_padded_embeddings_that_depend_on_their_own_words(
    pipe: StableDiffusionPipeline,
) -> None:
    condition = encode_prompts(
        pipe, ["a red ball", "a blue ball", "a red ball", "a red ball " * 40]
    )
    embeddings_BLD = condition.text_BLD
    assert not condition.added
    assert embeddings_BLD.shape == (
        4,
        pipe.tokenizer.model_max_length,
        pipe.unet.config.cross_attention_dim,
    )
    assert torch.equal(embeddings_BLD[0], embeddings_BLD[2])
    assert not torch.allclose(embeddings_BLD[0], embeddings_BLD[1])


def test_prompt_embeddings_are_those_of_the_pipeline_itself(pipe: StableDiffusionPipeline) -> None:
    with torch.no_grad():
        own_BLD, _ = pipe.encode_prompt(["a red ball"], "cpu", 1, False)
        assert torch.allclose(encode_prompts(pipe, ["a red ball"]).text_BLD, own_BLD, atol=1e-6)


def test_a_prompt_is_encoded_once_and_has_the_same_bits_in_any_batch(
    pipe: StableDiffusionPipeline,
) -> None:
    batches: list[int] = []
    watch = pipe.text_encoder.register_forward_hook(
        lambda _, inputs, __: batches.append(len(inputs[0]))
    )
    condition = Prompts(pipe)
    prompts = ["a red ball", "a blue ball", None, "a red ball"]
    many, item = condition(prompts), condition(["a blue ball"])
    watch.remove()
    assert batches == [1, 1, 1]
    assert torch.equal(
        many.text_BLD, torch.cat([encode_prompts(pipe, [prompt]).text_BLD for prompt in prompts])
    )
    assert torch.equal(many.text_BLD[1:2], item.text_BLD)


def test_images_survive_encoding_and_decoding(pipe: StableDiffusionPipeline) -> None:
    images_BHWC = data.draw(16, seed=4321).images_NHWC
    latents_BCHW = encode_images(pipe, images_BHWC)
    assert latents_BCHW.shape == (16, 4, 8, 8)
    assert 0.7 < float(latents_BCHW.std()) < 1.3, "scaled latents have unit spread"
    restored_BHWC = decode(pipe, latents_BCHW)
    assert restored_BHWC.dtype == np.uint8
    assert restored_BHWC.shape == images_BHWC.shape
    error = np.square(restored_BHWC.astype(float) - images_BHWC).mean()
    assert 10 * np.log10(255**2 / error) > 25.5


def test_a_named_background_is_painted(pipe: StableDiffusionPipeline) -> None:
    prompts = [
        f"a {thing} star at center on a {ground} background"
        for thing, ground in [("black", "red"), ("red", "white")] * 4
    ]
    drawn = pipe(
        prompts,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    corners_B3 = drawn[:, :2, :2].mean(axis=(1, 2))
    red_B, white_B = corners_B3[0::2], corners_B3[1::2]
    assert np.median(red_B[:, 0] - red_B[:, 1:].max(axis=1)) > 0.4
    assert np.median(white_B.min(axis=1)) > 0.8


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("package:tiny-sdxl", "no such model ships"),
        ("/nowhere/at/all", "not a folder with a model"),
        ("", "not a folder with a model"),
        ("package:clip", "does not open as Stable Diffusion"),
    ],
)
def test_a_reference_that_leads_nowhere_is_one_clear_line(ref: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_pipeline(ref)
    assert "\n" not in str(caught.value)


def test_references_resolve(tmp_path: Path) -> None:
    assert resolve_model("package:clip") == str(MODELS_FOLDER / "clip")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("CompVis/stable-diffusion-v1-4") == "CompVis/stable-diffusion-v1-4"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_of_the_package_is_known_by_name_and_by_folder(name: str, tmp_path: Path) -> None:
    folder = MODELS_FOLDER / name
    (tmp_path / "link").symlink_to(folder)
    for ref in (f"package:{name}", str(folder), str(tmp_path / "link")):
        assert ships(ref)
    assert not ships(str(tmp_path))
    assert not ships("openai/clip-vit-base-patch32")
