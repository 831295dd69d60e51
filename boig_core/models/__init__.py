"""Models that ship with the package, and the one place that turns a model reference into something
`from_pretrained` opens.

Holds the tiny Stable Diffusion and the two tiny CLIPs that `boig tiny-models` trains (see
``manifest.json`` beside this file for their command, seed, code and measured fidelity). Imports no
torch, so recipes can be checked without it. Nothing is opened here.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from boig_core.errors import InputError

PACKAGE_PREFIX: Final = "package:"
MODELS_FOLDER: Final = Path(__file__).parent
SHIPPED: Final = ("tiny-sd", "clip", "clip-judge")


def resolve_model(ref: str) -> str:
    """Turn a model reference into a local folder or a hub id.

    Args:
        ref: ``package:NAME`` for a shipped model, a local folder, or a hub id such as
            ``CompVis/stable-diffusion-v1-4``.

    Returns:
        A path or hub id for ``from_pretrained``.

    Raises:
        InputError: a shipped name that does not exist, or a reference that looks like a path and
            leads nowhere.
    """
    if ref.startswith(PACKAGE_PREFIX):
        name = ref.removeprefix(PACKAGE_PREFIX)
        folder = MODELS_FOLDER / name
        if name not in SHIPPED:
            raise InputError(
                ref,
                "no such model ships with boig",
                "use one of " + ", ".join(PACKAGE_PREFIX + shipped for shipped in SHIPPED),
            )
        if not folder.is_dir():
            raise InputError(
                ref,
                f"its folder {folder} is missing",
                "reinstall boig, or run `boig tiny-models` to train it again",
            )
        return str(folder)
    path = Path(ref).expanduser()
    # A folder comes before a hub id of the same name: what lies here needs no network.
    if ref and path.is_dir():
        return str(path)
    # A hub id has one slash at most; anything else is a path that leads nowhere.
    if not ref or ref.startswith(("/", ".", "~")) or ref.count("/") > 1 or path.is_file():
        raise InputError(
            ref or "''",
            "is not a folder with a model",
            "give a model folder, a hub id ORG/NAME, or package:NAME",
        )
    return ref


def ships(ref: str) -> bool:
    """Whether a reference, also one by its folder, leads to a model that ships with the package.

    Raises:
        InputError: as for `resolve_model`.
    """
    return Path(resolve_model(ref)).resolve().is_relative_to(MODELS_FOLDER.resolve())


@cache
def model_version(ref: str) -> str:
    """What tells one state of a model from another: the SHA-256 of a file or of a folder's files,
    or the commit of a hub id.

    Args:
        ref: as for `resolve_model`, or a file.

    Raises:
        InputError: the reference leads nowhere, or the hub does not say which commit it stands for.
    """
    if ref and (path := Path(ref).expanduser()).is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    resolved = resolve_model(ref)
    folder = Path(resolved)
    if folder.is_dir():
        digest = hashlib.sha256()
        # By path and content: two files that swap their contents are another model.
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                digest.update(
                    f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
                )
        return digest.hexdigest()
    from huggingface_hub import HfApi, try_to_load_from_cache

    # The hub's cache keeps files below a folder that their commit names, so a model that was
    # fetched before needs no network. Models of transformers have the one file, pipelines of
    # diffusers the other.
    for name in ("config.json", "model_index.json"):
        cached = try_to_load_from_cache(resolved, name)
        if isinstance(cached, str):
            return Path(cached).parent.name
    try:
        return str(HfApi().model_info(resolved).sha)
    except Exception as exc:
        raise InputError(
            resolved,
            f"the hub does not say which commit it is ({exc})",
            "download the model, and give its folder",
        ) from exc
