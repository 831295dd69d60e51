"""What a Stable Diffusion model's settings say of it, told without opening its weights.

A pipeline may be of the right class and take another input than a prompt: a mask, an image, a
class. Each such model is refused by what it is. Settings are those of diffusers' and transformers'
``config.json``, read from a folder or off an opened pipeline. Imports no torch, so that a recipe
can be checked anywhere. Leaves out: files (see `sd_folder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from boig_core.errors import InputError

SD: Final = "StableDiffusionPipeline"
SDXL: Final = "StableDiffusionXLPipeline"
MODELS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    SD: {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
        "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    },
    SDXL: {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
        "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    },
}
"""Parts with weights of each class of pipeline that boig trains (Stable Diffusion 1.x and 2.x, and
SDXL), and the classes that each may have."""
PREDICTIONS: Final = ("epsilon", "v_prediction")
"""What a model may predict, as its scheduler's prediction_type says: v = sqrt(alpha) epsilon -
sqrt(1 - alpha) x_0."""

_PICTURE: Final = "give a model that paints from a prompt alone"
_CHANNELS: Final = {
    9: "is an inpainting model: its UNet takes 9 channels, a mask and a masked image among them",
    8: "is an instruct-pix2pix model: its UNet takes 8 channels, those of an image to edit among them",
}
_UNKNOWN_INPUTS: Final = {
    "num_class_embeds": "classes",
    "class_embed_type": "class embeddings",
    "encoder_hid_dim": "text of another encoder",
    "encoder_hid_dim_type": "text or images of another encoder",
}
"""Settings of a UNet that ask for inputs which boig does not give; null in a plain model."""
_NO_DIFFUSION: Final = ("FlowMatch", "EDM", "CMStochastic", "ScoreSde", "VQDiffusion")
_CONSISTENCY: Final = ("LCMScheduler", "TCDScheduler")


def check_family(name: object, value: str) -> str:
    """The class of a pipeline, which must be one of `MODELS`.

    Args:
        name: ``_class_name`` of a model_index.json.
        value: what names the model, for messages.

    Raises:
        InputError: boig does not train it.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise InputError(
            value,
            f"is a {name}, which boig cannot train",
            f"give a model of class {' or '.join(MODELS)}",
        )
    return name


def check_settings(family: str, settings: Mapping[str, Mapping[str, Any]], value: str) -> None:
    """Whether a model's parts take what boig gives them, and fit each other.

    Args:
        family: class of the pipeline, one of `MODELS`.
        settings: of ``scheduler`` and of each part with weights, by its name; what is not in them
            has the default of its class and is not looked at.
        value: what names the model, for messages.

    Raises:
        InputError: naming the setting.
    """
    for name, part in settings.items():
        if method := part.get("quantization_config"):
            kind = method.get("quant_method") if isinstance(method, Mapping) else method
            raise InputError(
                value, f"has a {name} that is quantized ({kind})", "give the model it was made from"
            )
    check_scheduler(settings["scheduler"], value)
    _check_unet(family, settings["unet"], value)
    _check_autoencoder(family, settings["vae"], settings["unet"], value)
    encoders = [part for name, part in settings.items() if name.startswith("text_encoder")]
    _check_widths(family, encoders, settings["unet"], value)


def image_size(unet: Mapping[str, Any], value: str) -> int:
    """Height and width of a UNet's latents, which may stand there as a pair.

    Raises:
        InputError: there is none, or the two differ.
    """
    size: Any = unet.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise InputError(
            value,
            f"has a UNet whose sample_size is {size}",
            "set it to the side of its latents in unet/config.json",
        )
    if sides[0] != sides[1]:
        raise InputError(
            value,
            f"makes images that are not square: sample_size of its UNet is {list(sides)}",
            "give a model of square images",
        )
    return int(sides[0])


def check_scheduler(scheduler: Mapping[str, Any], value: str) -> None:
    """Whether a noise schedule is one that boig samples and trains by.

    Args:
        scheduler: its settings, with ``_class_name`` where it is known.
        value: what names the model, for messages.

    Raises:
        InputError: it is of another kind, another prediction, or has no meaning.
    """
    name = str(scheduler.get("_class_name", ""))
    if name.startswith(_NO_DIFFUSION):
        raise InputError(
            value, f"denoises by {name}", "give a model with Stable Diffusion's own noise schedule"
        )
    if name in _CONSISTENCY:
        raise InputError(
            value,
            f"is a consistency model: it denoises by {name}, and training as a diffusion model would undo that",
            "give the model that it was distilled from",
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InputError(
            value,
            f"predicts what boig cannot use: prediction_type of its scheduler is {prediction}, not one of {', '.join(PREDICTIONS)}",
            "use a Stable Diffusion model",
        )
    steps = scheduler.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 2:
        raise InputError(
            value, f"has a scheduler whose num_train_timesteps is {steps}", "set it as in training"
        )
    if scheduler.get("rescale_betas_zero_snr") and prediction == "epsilon":
        refuse_zero_snr(value)


def refuse_zero_snr(value: str) -> None:
    """Refuse a model that predicts epsilon on a schedule that begins without any signal.

    Raises:
        InputError: always.
    """
    # x_0 is (x - sqrt(1 - alpha) epsilon) / sqrt(alpha), and alpha is 0: images would be black.
    raise InputError(
        value,
        "predicts epsilon on a noise schedule of zero terminal SNR (rescale_betas_zero_snr), where epsilon says nothing of the image",
        "set in scheduler/scheduler_config.json what it was trained with: rescale_betas_zero_snr false, or prediction_type v_prediction",
    )


def _check_unet(family: str, unet: Mapping[str, Any], value: str) -> None:
    image_size(unet, value)
    taken, predicted = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if taken != predicted:
        rule = _CHANNELS.get(
            taken, f"has a UNet that takes {taken} channels, and gives {predicted}"
        )
        raise InputError(value, rule, _PICTURE)
    for name, what in _UNKNOWN_INPUTS.items():
        if unet.get(name) is not None:
            raise InputError(
                value, f"has a UNet that takes {what} ({name} = {unet[name]!r})", _PICTURE
            )
    added = unet.get("addition_embed_type")
    expected = "text_time" if family == SDXL else None
    if added != expected:
        raise InputError(
            value,
            f"has a UNet whose addition_embed_type is {added!r}, and that of a {family} is {expected!r}",
            "give a model whose parts belong together",
        )


def _check_autoencoder(
    family: str, vae: Mapping[str, Any], unet: Mapping[str, Any], value: str
) -> None:
    channels, taken = vae.get("latent_channels", 4), unet.get("in_channels", 4)
    if channels != taken:
        raise InputError(
            value,
            f"has a UNet of {taken} channels, and an autoencoder of {channels}",
            "give a model whose parts belong together",
        )
    for name in ("in_channels", "out_channels"):
        if vae.get(name, 3) != 3:
            raise InputError(
                value,
                f"has an autoencoder whose {name} is {vae[name]}",
                "give a model of RGB images",
            )
    moments = {name: vae.get(name) for name in ("latents_mean", "latents_std")}
    for name, numbers in moments.items():
        if numbers is None:
            continue
        # diffusers' own pipelines use them in SDXL alone, and what boig publishes is opened there.
        if family != SDXL:
            raise InputError(
                value,
                f"has an autoencoder with {name}, which a {family} of diffusers does not use",
                "fold it into scaling_factor, or remove it from vae/config.json",
            )
        if len(numbers) != channels or None in moments.values():
            raise InputError(
                value,
                f"has an autoencoder of {channels} channels, and latents_mean and latents_std are {moments}",
                "give one number per channel in both",
            )
    if vae.get("shift_factor"):
        raise InputError(
            value,
            f"has an autoencoder whose shift_factor is {vae['shift_factor']}, which a {family} of diffusers does not use",
            "give a model with the autoencoder that it was trained with",
        )


def _check_widths(
    family: str, encoders: list[Mapping[str, Any]], unet: Mapping[str, Any], value: str
) -> None:
    """Text must be as wide as the UNet reads it; nothing is said of what the settings leave out."""
    widths: list[Any] = [encoder.get("hidden_size") for encoder in encoders]
    read: Any = unet.get("cross_attention_dim")
    reads = set(read) if isinstance(read, (list, tuple)) else {read}
    known = None not in widths and None not in reads
    width = sum(widths) if known else 0
    if known and reads != {width}:
        shown = ", ".join(str(one) for one in sorted(reads))
        raise InputError(
            value,
            f"has text encoders of width {width} in all, and its UNet reads {shown}",
            "give a model whose parts belong together",
        )
    if family != SDXL:
        return
    numbers = unet.get("projection_class_embeddings_input_dim")
    time, pooled = unet.get("addition_time_embed_dim"), encoders[-1].get("projection_dim")
    if time is not None and pooled is not None and numbers not in (None, 6 * time + pooled):
        raise InputError(
            value,
            f"has a UNet that takes {numbers} numbers beside the text, not {6 * time + pooled}: six sizes and the pooled text",
            "give a base model of SDXL, not its refiner",
        )
