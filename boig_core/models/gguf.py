"""Which GGUF file a reference means, told without opening it: llama.cpp's format, in which language
models are quantized and shared as single files.

Imports no torch. Leaves out: what stands in the file (see `boig_core.llm.gguf`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from boig_core.errors import InputError
from boig_core.models.files import check_file

_PART: Final = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_PROJECTOR: Final = "mmproj"


def gguf_of(path: Path, value: str) -> Path | None:
    """The GGUF file that a path names: itself, or the only one of a folder that has no weights of
    transformers; none: the path is something else.

    Args:
        path: of a file or a folder, or of nothing.
        value: what names the model, such as ``llm.base = 'my/model'``.

    Raises:
        InputError: a folder holds several, the file is a part of one or no language model, or it is
            not there whole.
    """
    if path.suffix == ".gguf" and not path.is_dir():
        files = [path]
    elif path.is_dir() and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        files = sorted(path.glob("*.gguf"))
    else:
        return None
    if not files:
        return None
    if part := _PART.search(files[0].name):
        raise InputError(
            value,
            f"is a GGUF file in {int(part[1])} parts, {files[0].name} among them",
            "join them with `llama-gguf-split --merge`",
        )
    if len(files) > 1:
        raise InputError(
            value,
            f"holds {len(files)} GGUF files: {', '.join(file.name for file in files)}",
            "give the path of one of them",
        )
    if _PROJECTOR in files[0].name.lower():
        raise InputError(
            value,
            f"holds {files[0].name}, which leads images into a language model",
            "give the file of the language model itself",
        )
    check_file(files[0], value)
    return files[0]
