"""Word vectors with a meaning, for the metrics that compare names: spaCy's, or a sentence-embedding
model of transformers.

`open_vectors` chooses by the recipe; without a choice the metrics fall back on
`metrics.HashedNgrams`, which knows spelling alone. Leaves out: what cosines are used for (see
`metrics`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.llm.metrics import HashedNgrams, WordVectors
from boig_core.models.files import check_transformers_folder
from boig_core.models.opening import check_whole, opening

_REMEDY: Final = "or leave evaluation.word_vectors out: vectors of spelling need nothing"


def open_vectors(spec: str | None) -> WordVectors:
    """The vectors that a recipe asks for.

    Args:
        spec: ``spacy:MODEL`` (an installed package of spaCy, or a folder), ``hf:ID`` (a hub id or a
            folder), or none.

    Raises:
        InputError: they cannot be opened, or hold no vectors.
    """
    kind, _, name = (spec or "").partition(":")
    if not spec:
        return HashedNgrams()
    if kind not in _KINDS or not name:
        raise InputError(
            f"word vectors {spec}", "are not known", f"use spacy:MODEL or hf:ID, {_REMEDY}"
        )
    return _KINDS[kind](name)


class _Vectors(ABC):
    """Cosines of vectors that are made once a name."""

    name: str

    def __init__(self) -> None:
        self._unit = cache(self._make)

    def cosine(self, first: str, second: str) -> float:
        """Cosine of two names' vectors; 0 where one of two different names has none."""
        return 1.0 if first == second else float(self._unit(first) @ self._unit(second))

    def _make(self, name: str) -> NDArray[np.float64]:
        # Vectors are those of words: Dark_Blue is none, dark and blue are.
        vector = self.vector(name.replace("_", " ").lower()).astype(np.float64)
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector

    @abstractmethod
    def vector(self, text: str) -> NDArray[np.float32]:
        """Vector (D) of a name in plain words."""


class SpacyVectors(_Vectors):
    """Vectors of a spaCy model, a name's being the mean of its words': what the paper used.

    Raises:
        InputError: spaCy or the model is not installed, or the model has no vectors.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        try:
            import spacy

            self._language = spacy.load(model)
        except (ImportError, OSError) as exc:
            rule = "needs the package spacy" if isinstance(exc, ImportError) else "is not installed"
            raise InputError(
                f"word vectors spacy:{model}",
                rule,
                f"pip install spacy, spacy download {model}, {_REMEDY}",
            ) from exc
        # Small models of spaCy open without vectors: all different names would be equally far
        # apart.
        if not self._language.vocab.vectors_length:
            raise InputError(
                f"word vectors spacy:{model}",
                "has no vectors",
                f"use a model such as en_core_web_md, {_REMEDY}",
            )
        self.name = f"spaCy {model}"

    def vector(self, text: str) -> NDArray[np.float32]:
        """Mean of the words' vectors."""
        # The vocabulary alone: a tagger or parser would only take time.
        vector: NDArray[np.float32] = self._language.make_doc(text).vector
        return vector


class SentenceEmbeddings(_Vectors):
    """Embeddings of a transformers encoder: the mean over a text's tokens, as sentence-embedding
    models are trained.

    Raises:
        InputError: the model cannot be opened.
    """

    def __init__(self, model: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        super().__init__()
        value = f"word vectors hf:{model}"
        if Path(model).is_dir():
            check_transformers_folder(Path(model), value)
        with opening(value, "cannot be opened", f"give a hub id or a folder, {_REMEDY}"):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            encoder, report = AutoModel.from_pretrained(
                model, output_loading_info=True, trust_remote_code=False
            )
            # Names are read off the states below the pooler, which some checkpoints leave out.
            check_whole(report, value, unused="pooler")
            self._model: Any = encoder.eval()
        self.name = f"sentence embeddings {model}"

    def vector(self, text: str) -> NDArray[np.float32]:
        """Mean of the last hidden states."""
        import torch

        # One name at a time has no padding, so the mean is over real tokens.
        with torch.inference_mode():
            states_1TD = self._model(
                **self._tokenizer(text, return_tensors="pt", split_special_tokens=True)
            ).last_hidden_state
        vector: NDArray[np.float32] = states_1TD[0].mean(dim=0).float().numpy()
        return vector


_KINDS: Final = {"spacy": SpacyVectors, "hf": SentenceEmbeddings}
