"""Models that ship with the package, and the one place that turns a model reference into something `from_pretrained` opens.

Holds the tiny Stable Diffusion and the two tiny CLIPs that `boig tiny-models` trains (see ``manifest.json`` beside this file for their
command, seed, code and measured fidelity). Imports no torch, so recipes can be checked without it. Nothing is opened here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boig_core.errors import InputError

PACKAGE_PREFIX: Final = "package:"
MODELS_FOLDER: Final = Path(__file__).parent
SHIPPED: Final = ("tiny-sd", "clip", "clip-judge")


def resolve_model(ref: str) -> str:
    """Turn a model reference into a local folder or a hub id.

    Args:
        ref: ``package:NAME`` for a shipped model, a local folder, or a hub id such as ``CompVis/stable-diffusion-v1-4``.

    Returns:
        A path or hub id for ``from_pretrained``.

    Raises:
        InputError: a shipped name that does not exist, or a reference that looks like a path and leads nowhere.
    """
    if ref.startswith(PACKAGE_PREFIX):
        name = ref.removeprefix(PACKAGE_PREFIX)
        folder = MODELS_FOLDER / name
        if name not in SHIPPED:
            raise InputError(
                ref, "no such model ships with boig", "use one of " + ", ".join(PACKAGE_PREFIX + shipped for shipped in SHIPPED)
            )
        if not folder.is_dir():
            raise InputError(ref, f"its folder {folder} is missing", "reinstall boig, or run `boig tiny-models` to train it again")
        return str(folder)
    path = Path(ref).expanduser()
    if ref and path.is_dir():
        return str(path)
    if not ref or ref.startswith(("/", ".", "~")) or ref.count("/") > 1 or path.is_file():
        raise InputError(ref or "''", "is not a folder with a model", "give a model folder, a hub id ORG/NAME, or package:NAME")
    return ref
