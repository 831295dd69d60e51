"""Opening checkpoints: the one place that says in a line why a reference holds no such model.

`from_pretrained` alone is too kind: a folder of another architecture, or one without some weights,
gives a model that guesses at random. Leaves out: where a reference leads (see `boig_core.models`).
torch and transformers are imported when a model is opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from boig_core.errors import InputError
from boig_core.models import resolve_model
from boig_core.models.files import check_file, check_transformers_folder
from boig_core.models.opening import check_whole, opening
from boig_core.observability.quiet import hide_bars

Dtype = Literal["auto", "float32", "bfloat16"]
T = TypeVar("T")


def open_model(
    build: Any, ref: str | None, field: str, types: Sequence[str], dtype: Any
) -> tuple[Any, str]:
    """A model, ready to infer on the GPU where there is one, and the folder or hub id that its
    tokenizer stands in.

    Args:
        build: class of the model.
        ref: hub id or folder.
        field: of the recipe that named it, for messages.
        types: model types that fit, as a checkpoint's config calls them; None: any that ``build``
            knows.
        dtype: of the weights.

    Raises:
        InputError: the reference holds no such model, or not all of its weights.
    """
    import torch
    from transformers import AutoConfig

    hide_bars()
    value, folder = f"{field} = {ref}", resolve_model(ref or "")
    if Path(folder).is_dir():
        check_file(Path(folder) / "config.json", value)
    config = open_part(
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False), ref, field, "model"
    )
    # Asked before the weights are read, which takes longest.
    if types and config.model_type not in types:
        raise InputError(
            value,
            f"holds a {config.model_type}, not a {' or '.join(types)}",
            "give a checkpoint of that type",
        )
    if Path(folder).is_dir():
        check_transformers_folder(Path(folder), value)
    model, report = open_part(
        lambda: build.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        ),
        ref,
        field,
        "model",
    )
    check_whole(report, value)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), folder


def open_part(load: Callable[[], T], ref: str | None, field: str, what: str) -> T:
    """What ``load`` opens, or one clear line.

    Raises:
        InputError: it cannot be opened.
        EndpointError: the hub does not answer.
    """
    with opening(
        f"{field} = {ref}", f"holds no {what} that opens", "give a model folder or a hub id"
    ):
        return load()


def use_bfloat16(dtype: Dtype) -> bool:
    """Whether to compute in bfloat16: when asked to, or where there is a GPU."""
    import torch

    return dtype == "bfloat16" or (dtype == "auto" and torch.cuda.is_available())
