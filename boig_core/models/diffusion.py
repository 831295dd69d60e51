"""What can be told of an image model before anything is paid for, wherever it lies on this machine:
kinds that boig cannot train, and files that are not there whole.

Imports no torch. Leaves out: what only opening tells, and what stands on a hub or in an object
store (see `boig_core.diffusion.opening`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boig_core.errors import InputError
from boig_core.models import resolve_model
from boig_core.models.opening import opening
from boig_core.models.sd_file import read_single_file
from boig_core.models.sd_folder import check_folder

_WEB: Final = ("http://", "https://")


def check_diffusion_model_here(ref: str, value: str) -> None:
    """`check_diffusion_model` of what this machine has: a folder may lie where the training runs
    alone.

    Raises:
        InputError: as for `check_diffusion_model`.
    """
    if ref.startswith(_WEB) or ("://" not in ref and Path(ref).expanduser().exists()):
        check_diffusion_model(ref, value)


def check_diffusion_model(ref: str, value: str) -> None:
    """Look at a folder or file that is to be trained on; what lies elsewhere is let pass.

    Args:
        ref: a folder, a ``.safetensors`` file, ``package:NAME``, a hub id or a store URI.
        value: what names the model, such as ``sd.base = 'my/model'``.

    Raises:
        InputError: it is of a kind that boig cannot train, lacks files, or leads nowhere.
    """
    if ref.startswith(_WEB):
        raise InputError(
            value,
            "is a web address, and models are read from folders, files, stores and the hub",
            "download it and give the file, or give its hub id ORG/NAME",
        )
    if "://" in ref:
        return
    path = Path(ref).expanduser()
    # Settings of any type may stand in a file, and a file may not be readable.
    with opening(value, "cannot be read as a model", "give a whole diffusers folder"):
        if path.is_file():
            read_single_file(path, value)
        elif (place := Path(resolve_model(ref))).is_dir():
            check_folder(place, value)
