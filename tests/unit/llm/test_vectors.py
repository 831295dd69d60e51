"""Word vectors by the recipe's choice: a sentence-embedding folder, spaCy where it is installed,
spelling otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from boig_core.config import parse_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.metrics import HashedNgrams
from boig_core.llm.vectors import open_vectors

WORDS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "dark", "red", "blue", "ball")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that knows eight words."""
    folder = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
    }
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    BertModel(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)
    ).save_pretrained(folder)
    return folder


def test_a_sentence_embedding_is_the_mean_over_the_tokens(encoder: Path) -> None:
    vectors = open_vectors(f"hf:{encoder}")
    model = BertModel.from_pretrained(encoder).eval()

    def mean(*words: str) -> np.ndarray:
        with torch.no_grad():
            ids = torch.tensor([[WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]])
            result: np.ndarray = model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
        return result / np.linalg.norm(result)

    assert vectors.cosine("Dark_Red", "ball") == pytest.approx(
        float(mean("dark", "red") @ mean("ball")), abs=1e-5
    )
    assert vectors.cosine("ball", "Dark_Red") == pytest.approx(vectors.cosine("Dark_Red", "ball"))
    assert vectors.cosine("Blue", "Blue") == 1.0
    assert vectors.name == f"sentence embeddings {encoder}"


def test_spelling_is_the_fallback_and_says_so() -> None:
    assert isinstance(open_vectors(None), HashedNgrams)
    assert "fallback" in open_vectors(None).name


def test_spacys_vectors_are_used_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"dark red": [1.0, 0.0], "red": [0.6, 0.8], "unheard": [0.0, 0.0]}

    def language(dims: int) -> Any:
        doc = lambda text: SimpleNamespace(vector=np.array(known[text], np.float32))  # noqa: E731
        return SimpleNamespace(vocab=SimpleNamespace(vectors_length=dims), make_doc=doc)

    def load(name: str) -> Any:
        if name == "absent":
            raise OSError("[E050] Can't find model 'absent'")
        return language(2 if name == "en_core_web_md" else 0)

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    vectors = open_vectors("spacy:en_core_web_md")
    assert vectors.cosine("Dark_Red", "Red") == pytest.approx(0.6)
    assert vectors.cosine("unheard", "Red") == 0.0
    assert vectors.cosine("unheard", "unheard") == 1.0
    assert vectors.name == "spaCy en_core_web_md"
    with pytest.raises(InputError, match="has no vectors"):
        open_vectors("spacy:en_core_web_sm")
    with pytest.raises(InputError, match="is not installed"):
        open_vectors("spacy:absent")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match="needs the package spacy"):
        open_vectors("spacy:en_core_web_md")


def test_vectors_that_cannot_be_opened_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model: there is no config"):
        open_vectors(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="are not known"):
        open_vectors("glove:42B")
    with pytest.raises(RecipeError, match="word_vectors"):
        parse_recipe({"evaluation": {"word_vectors": "glove:42B"}})
