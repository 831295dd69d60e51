"""Aesthetic score: a head of linear layers on the unit-length image embeddings of the CLIP that it
was trained on.

Both of LAION's published predictors are of that form: one layer, and five without anything between
them but the dropout of training. boig ships none; a recipe names the files
(``evaluation.aesthetic``). Shape letters: N images, D width of the embeddings.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from boig_core.config import Aesthetic
from boig_core.errors import InputError
from boig_core.evaluation.measure.judges import ClipFeatures, ClipJudge
from boig_core.storage import store


class AestheticJudge:
    """Scores looks.

    Args:
        settings: the CLIP and the file of the head.
        clip: that CLIP, where it is open already.

    Raises:
        InputError: no CLIP there, or a file that holds no head for it.
        NotFoundInStoreError: no such file.
    """

    def __init__(self, settings: Aesthetic, clip: ClipJudge | None = None) -> None:
        self.clip = clip or ClipJudge(settings.clip)
        self._layers = read_head(settings.head)
        if (width := self._layers[0][0].shape[1]) != self.clip.width:
            rule = f"takes embeddings of width {width}, and those of {settings.clip} have {self.clip.width}"
            raise InputError(f"head {settings.head}", rule, "name the CLIP that it is for")

    def score(self, seen: ClipFeatures) -> NDArray[np.float64]:
        """Scores (N,) of images as ``clip`` sees them; LAION's run from about 1 to 10."""
        values = torch.from_numpy(seen.embedding_ND)
        for weight, bias in self._layers:
            values = torch.nn.functional.linear(values, weight, bias)
        return np.asarray(values[:, 0].numpy(), np.float64)


def read_head(uri: str) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each layer in the order of their numbers, in float64.

    Nothing is unpickled but tensors.

    Raises:
        InputError: another content.
        NotFoundInStoreError: no such file.
    """
    data = store.read_bytes(uri)
    try:
        state = (
            load(data)
            if uri.endswith(".safetensors")
            # `weights_only`: a pickle from the web may otherwise run code when it is opened.
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
        return _layers(state)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as exc:
        rule = f"holds no head of linear layers ({str(exc).splitlines()[0][:120]})"
        raise InputError(
            f"head {uri}",
            rule,
            "give a state dict of weights and biases, as safetensors or by torch.save",
        ) from exc


def _layers(state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    def number(name: str) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", name)]

    # By the numbers in their names: as text, layer 10 would come before layer 2.
    names = sorted((name for name in state if name.endswith("weight")), key=number)
    layers = [
        # Double precision like the embeddings: `linear` takes no mixture.
        (state[name].double(), state[name.removesuffix("weight") + "bias"].double())
        for name in names
    ]
    # A tensor that is left over means another kind of network, whose score would be made of a part
    # of it.
    if 2 * len(layers) != len(state):
        raise ValueError(f"{len(state)} tensors, not weights and biases alone")
    if not layers or layers[-1][0].shape[0] != 1:
        raise ValueError("the last layer must give one number")
    with torch.no_grad():  # layers that do not fit each other end here
        values = torch.zeros(1, layers[0][0].shape[1], dtype=torch.float64)
        for weight, bias in layers:
            values = torch.nn.functional.linear(values, weight, bias)
    return layers
