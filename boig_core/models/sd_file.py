"""What a single ``.safetensors`` file is, told by the names in its header.

Web interfaces keep a whole Stable Diffusion in one file, and give the same ending to LoRAs,
ControlNets, embeddings and autoencoders. Imports no torch. Leaves out: opening one (see
`boig_core.diffusion.opening`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from boig_core.errors import InputError
from boig_core.models.files import check_file
from boig_core.models.sd_folder import INDEX

Generation = Literal["v1", "v2", "xl_base"]
"""Stable Diffusion 1.x, 2.x or XL, as diffusers calls them."""
_PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_UNET: Final = "model.diffusion_model."
_ENTRY: Final = f"{_UNET}input_blocks.0.0.weight"
_AUTOENCODER: Final = "first_stage_model."
_TEXT: Final[Mapping[str, Generation]] = {
    "conditioner.embedders.1.": "xl_base",
    "cond_stage_model.model.": "v2",
    "cond_stage_model.transformer.": "v1",
}
"""Beginnings of the names of a text encoder's weights."""
_WHOLE: Final = "give the file of a whole Stable Diffusion, or a diffusers folder"
_OTHERS: Final = (
    (("lora_", ".lora", "hada_", "lokr_"), "is a LoRA"),
    (("control_model.", "controlnet_", "input_hint_block"), "is a ControlNet"),
    (("ip_adapter.",), "is an IP-Adapter"),
    (("double_blocks.", "double_stream_blocks."), "is a Flux or another model that boig cannot train"),
    (("joint_blocks.",), "is a Stable Diffusion 3, which boig cannot train"),
    (("motion_modules.",), "is a motion module of AnimateDiff"),
)  # fmt: skip
"""What stands in a name of some weights, and what a file with such names is."""
_PARTS: Final = (
    (("down_blocks.", "conv_in."), "is a UNet alone"),
    (("decoder.", "encoder."), "is an autoencoder alone"),
    (("text_model.",), "is a text encoder alone"),
)
"""The same by the beginnings of names, asked after those of a whole model."""


@dataclass(frozen=True)
class SingleFile:
    """What the header of a whole model's file says.

    Attributes:
        generation: which Stable Diffusion it is.
        scheduler: settings of its noise schedule, where the file has marks for them.
    """

    generation: Generation
    scheduler: Mapping[str, Any]


def read_single_file(path: Path, value: str) -> SingleFile:
    """What a file is, which must be one of a whole Stable Diffusion.

    Args:
        path: of the file.
        value: what names the model, for messages.

    Raises:
        InputError: it is something else, by name, or not all there.
    """
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            value,
            f"is a pickle ({path.suffix}), which may run code when it is opened",
            "give the same model as .safetensors, or as a diffusers folder",
        )
    if path.suffix != ".safetensors":
        raise InputError(value, "is no .safetensors file", _WHOLE)
    check_file(path, value)
    shapes = _shapes(path)
    for pieces, rule in _OTHERS:
        if any(piece in name for name in shapes for piece in pieces):
            raise InputError(value, rule, _WHOLE)
    if "conditioner.embedders.0.model.ln_final.weight" in shapes:
        raise InputError(value, "is the refiner of SDXL", "give the base model of SDXL")
    generation = _generation(shapes)
    lacking = [
        part
        for part, there in {
            "UNet": _ENTRY in shapes,
            "autoencoder": any(name.startswith(_AUTOENCODER) for name in shapes),
            "text encoder": generation is not None,
        }.items()
        if not there
    ]
    if generation is None or lacking:
        raise InputError(value, _rule_of_part(shapes, lacking), _WHOLE)
    channels = shapes[_ENTRY][1] if len(shapes[_ENTRY]) > 1 else 0
    if channels != 4:
        kind = {9: "an inpainting model", 8: "an instruct-pix2pix model"}.get(
            channels, "another model"
        )
        raise InputError(
            value,
            f"is {kind}: its UNet takes {channels} channels",
            "give a model that paints from a prompt alone",
        )
    _check_prediction(path, generation, shapes, value)
    return SingleFile(generation, _marks(shapes))


def _shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors of a file that `check_file` has passed."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: entry.get("shape", []) for name, entry in header.items() if name != "__metadata__"
    }


def _generation(shapes: Mapping[str, list[int]]) -> Generation | None:
    for beginning, generation in _TEXT.items():
        if any(name.startswith(beginning) for name in shapes):
            return generation
    return None


def _rule_of_part(shapes: Mapping[str, list[int]], lacking: list[str]) -> str:
    """What a file is that holds no whole model."""
    if len(lacking) < 3:
        return f"holds no {' and no '.join(lacking)}"
    for beginnings, rule in _PARTS:
        if any(name.startswith(beginnings) for name in shapes):
            return rule
    if len(shapes) <= 4 and all(len(shape) <= 2 for shape in shapes.values()):
        return "is a textual inversion"
    return "holds weights of no model that boig knows"


def _check_prediction(
    path: Path, generation: Generation, shapes: Mapping[str, list[int]], value: str
) -> None:
    """Stable Diffusion 2.x was published with both predictions under the same names of weights."""
    if generation == "v2" and "v_pred" not in shapes and not (path.parent / INDEX).is_file():
        raise InputError(
            value,
            "is a Stable Diffusion 2.x in one file, which does not say whether it predicts epsilon or v",
            f"put the {INDEX} and the settings of its diffusers folder beside it, or give that folder",
        )


def _marks(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """Settings of the noise schedule that trainers mark by an empty tensor of that name."""
    marks: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in shapes else {}
    if "ztsnr" in shapes:
        marks |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return marks
