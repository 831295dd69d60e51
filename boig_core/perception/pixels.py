"""Images in memory, as perception takes them: arrays or a tensor, brought to a square or fitted
into one.

Leaves out: files and encoded bytes. torch is never imported here but by whoever hands over a
tensor. Shape letters: B images, H height, W width, C = 3 channels, S side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.errors import InputError

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
"""RGB image, (H, W, 3)."""


def to_arrays(images: Sequence[Pixels] | Pixels | torch.Tensor) -> list[Pixels]:
    """Images as uint8 arrays, each (H, W, 3).

    Args:
        images: uint8 RGB arrays of any sizes, each (H, W, 3); or one tensor (B, 3, H, W) on any
            device, uint8 or floats in [0, 1].

    Raises:
        InputError: another shape or type.
    """
    arrays = list(images if isinstance(images, (Sequence, np.ndarray)) else _from_tensor(images))
    for image in arrays:
        if (
            getattr(image, "dtype", None) != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or 0 in image.shape
        ):
            met = f"an image of {getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
            raise InputError(
                met,
                "must be uint8 (H, W, 3), or all in one tensor (B, 3, H, W)",
                "convert it to 8-bit RGB",
            )
    return arrays


def square(image_HWC: Pixels, side: int) -> Pixels:
    """As `data.images.resize` does, which a sibling room may not import: areas averaged when
    shrinking, bicubic when enlarging."""
    height, width = image_HWC.shape[:2]
    if (height, width) == (side, side):
        return image_HWC
    method = Image.Resampling.BOX if min(height, width) >= side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image_HWC).resize((side, side), method))


def fit(images: Sequence[Pixels], side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Each image whole and unsqueezed in the upper left of a black square, its longer edge filling
    it.

    Returns:
        Pixels (B, S, S, 3), and where they belong to the image (B, S, S).
    """
    fitted_BSSC = np.zeros((len(images), side, side, 3), np.uint8)
    inside_BSS = np.zeros(fitted_BSSC.shape[:3], np.bool_)
    for index, image_HWC in enumerate(images):
        longer = max(image_HWC.shape[:2])
        # A strip keeps a pixel of its shorter edge, however thin it is.
        height, width = (max(1, round(edge * side / longer)) for edge in image_HWC.shape[:2])
        fitted_BSSC[index, :height, :width] = np.asarray(
            Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR)
        )
        inside_BSS[index, :height, :width] = True
    return fitted_BSSC, inside_BSS


def _from_tensor(images_BCHW: Any) -> NDArray[Any]:
    images_BCHW = images_BCHW.detach()
    if images_BCHW.dtype.is_floating_point:
        # In float32 first: bfloat16 cannot tell all 256 levels apart.
        images_BCHW = images_BCHW.float().clamp(0, 1).mul(255).round().byte()
    # A tensor of another shape goes on as it is: `to_arrays` refuses it and says what it met.
    return (
        np.moveaxis(images_BCHW.cpu().numpy(), 1, -1)
        if images_BCHW.ndim == 4
        else images_BCHW.cpu().numpy()
    )
