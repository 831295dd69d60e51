"""A language model that somebody names opens right, or is refused in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentencepiece import SentencePieceTrainer

from boig_core.config import parse_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.base import make_model
from boig_core.llm.generate import load_llm
from boig_core.llm.opening import open_language_model
from boig_core.llm.packing import Layout
from boig_core.llm.tokens import build_tokenizer, encode_examples
from boig_core.models.language import check_language_model
from boig_core.storage import store
from tests.unit.llm.spoiled import AT_A_GLANCE, OPENED, cut, edit, fp16_bin, remove
from tests.unit.llm.test_gguf import write_gguf

WORDS = ["a post that shows a red ball"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {
    **SIZES,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SEEN = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EXPERTS = {"num_experts_per_tok": 1, "moe_intermediate_size": 32}


@pytest.fixture(scope="session")
def words() -> Any:
    return build_tokenizer(WORDS, 500)


@pytest.fixture
def folder(words: Any, tmp_path: Path) -> Path:
    """A tiny Llama."""
    return saved("Llama", "ForCausalLM", TEXT, words, tmp_path / "model")


def saved(family: str, head: str, sizes: dict[str, Any], words: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **({"vocab_size": len(words)} if "text_config" not in sizes else {}), **sizes
    )
    getattr(transformers, f"{family}{head}")(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], str | None]] = {
    "gpt2": ("GPT2", "LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2}, None),
    "bloom": ("Bloom", "ForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 2}, None),
    "qwen3": ("Qwen3", "ForCausalLM", TEXT, None),
    "gemma2": ("Gemma2", "ForCausalLM", TEXT, None),
    "gemma3 that also sees": (
        "Gemma3", "ForConditionalGeneration",
        {"text_config": {**TEXT, "vocab_size": 600}, "vision_config": SEEN, "mm_tokens_per_image": 4,
         "image_token_index": 599, "boi_token_index": 598, "eoi_token_index": 597},
        None,
    ),
    "mixtral": ("Mixtral", "ForCausalLM", {**TEXT, "num_local_experts": 2, "num_experts_per_tok": 1}, None),
    "qwen3-moe": ("Qwen3Moe", "ForCausalLM", {**TEXT, **EXPERTS, "num_experts": 2}, None),
    "olmoe": ("Olmoe", "ForCausalLM", {**SIZES, "num_experts": 2, "num_experts_per_tok": 1}, None),
    "mamba": ("Mamba", "ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, None),
    "rwkv": ("Rwkv", "ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}, None),
    "bert": ("Bert", "LMHeadModel", SIZES, "that sees the tokens it is to predict"),
    "roberta": ("Roberta", "ForCausalLM", SIZES, "that sees the tokens it is to predict"),
    "a masked roberta": ("Roberta", "ForMaskedLM", SIZES, "is a RobertaForMaskedLM"),
    "xlnet": (
        "XLNet", "LMHeadModel", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
        "that sees the tokens it is to predict",
    ),
    "distilbert": (
        "DistilBert", "Model", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
        "is a distilbert, which transformers cannot open as a causal",
    ),
    "a body without a head": ("Llama", "Model", TEXT, "lacks 1 weights, lm_head"),
    "t5": (
        "T5", "ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2},
        "is an encoder-decoder model (t5)",
    ),
    "bart": (
        "Bart", "ForConditionalGeneration",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
        "is an encoder-decoder model (bart)",
    ),
    "llava": (
        "Llava", "ForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": {**SEEN, "model_type": "clip_vision_model"}},
        "is a llava, which transformers cannot open as a causal",
    ),
}  # fmt: skip


def base(folder: Path | str, **llm: Any) -> tuple[Any, Any]:
    return make_model(
        parse_recipe({"llm": {"base": str(folder), "context": 64, **llm}}).llm, WORDS, 0
    )


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("kind", AT_A_GLANCE)
def test_what_a_folder_shows_is_told_without_opening_it(kind: str, folder: Path) -> None:
    words, spoil = AT_A_GLANCE[kind]
    spoil(folder)
    glance = refused(lambda: check_language_model(str(folder), f"llm.base = '{folder}'"))
    assert glance.startswith(f"llm.base = '{folder}': ")
    assert words in glance
    assert refused(lambda: base(folder)) == glance


@pytest.mark.parametrize("kind", OPENED)
def test_what_does_not_open_is_one_line(kind: str, folder: Path) -> None:
    words, spoil = OPENED[kind]
    spoil(folder)
    message = refused(lambda: base(folder))
    assert message.startswith(f"llm.base = '{folder}': ")
    assert words in message


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_opens_or_is_refused_by_name(name: str, words: Any, tmp_path: Path) -> None:
    family, head, sizes, refusal = ARCHITECTURES[name]
    saved(family, head, sizes, words, tmp_path)
    if refusal is not None:
        assert refusal in refused(lambda: base(tmp_path))
        return
    tokenizer, model = base(tmp_path)
    assert tokenizer.get_vocab().keys() >= words.get_vocab().keys()
    original = getattr(transformers, f"{family}{head}").from_pretrained(tmp_path).state_dict()
    opened = model.state_dict()
    assert opened.keys() == original.keys()
    assert all(torch.equal(opened[key], original[key]) for key in opened)
    assert model.training


@pytest.mark.parametrize(
    "ref", ["/nowhere/at/all", "./nowhere", "a/b/c", "~/nowhere/at/all", "nowhere/model.gguf/x"]
)
def test_a_path_that_leads_nowhere_is_told_without_the_hub(ref: str) -> None:
    assert "leads nowhere" in refused(lambda: base(ref))


def test_a_model_of_the_hub_needs_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the network is off" in refused(lambda: base("nobody/knows-this"))


@pytest.mark.parametrize("ref", ["gs://bucket/model", "package:clip", "a b", "x" * 200])
def test_what_no_hub_can_name_is_refused(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is no folder here" in refused(lambda: base(ref))


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file" in refused(lambda: base(folder / "model.safetensors"))


def test_pickled_half_precision_weights_open_in_the_recipes_precision(folder: Path) -> None:
    plain = {name: p.half().float() for name, p in base(folder)[1].named_parameters()}
    fp16_bin(folder)
    for dtype in (torch.float32, torch.bfloat16):
        _, model = base(folder, dtype=str(dtype).removeprefix("torch."))
        assert all(torch.equal(p, plain[name].to(dtype)) for name, p in model.named_parameters())


def test_a_gguf_opens_from_a_folder_a_file_and_a_store(tmp_path: Path, s3_bucket: str) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    store.upload_folder(tmp_path, f"{s3_bucket}/bases/gguf")
    places: list[Path | str] = [
        tmp_path,
        tmp_path / "tiny.gguf",
        f"{s3_bucket}/bases/gguf/tiny.gguf",
    ]
    first, *others = (base(place)[1].state_dict() for place in places)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_embeddings_may_outnumber_the_tokens(words: Any, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=len(words) + 27, **TEXT)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    tokenizer, model = base(tmp_path)
    assert (len(tokenizer), model.vocab_size) == (len(words), len(words) + 27)


def test_a_tokenizer_of_sentencepiece_opens(folder: Path, tmp_path: Path) -> None:
    remove("tokenizer*", "special_tokens_map.json")(folder)
    (tmp_path / "text").write_text("a red ball lies on a blue floor\n" * 20)
    SentencePieceTrainer.train(
        input=tmp_path / "text",
        model_prefix=folder / "tokenizer",
        vocab_size=60,
        hard_vocab_limit=False,
        byte_fallback=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    tokenizer, _ = base(folder)
    ids = tokenizer("a red ball", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "a red ball"
    assert tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_eos_stays_what_an_answer_ends_with_where_it_also_fills_up(
    pad: str | None, folder: Path
) -> None:
    edit("tokenizer_config.json", pad_token=pad)(folder)
    before = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    tokenizer, model = base(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer.get_added_vocab()) == len(before), "no token was added"
    examples = encode_examples(tokenizer, ["a post", "a red ball"], ["red", "a red ball"], 64)
    assert [int(example.answer_T[-1]) for example in examples] == [tokenizer.eos_token_id] * 2
    for room in (0, 64):
        rows = Layout(tokenizer.pad_token_id, room)(examples)
        assert rows.targets_N.tolist().count(tokenizer.eos_token_id) == 2
    assert model.config.vocab_size == len(tokenizer)


def test_a_context_longer_than_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"is more than .* reads: 64 tokens"):
        base(folder, context=128)


def test_a_published_model_goes_through_the_same_door(folder: Path) -> None:
    model, tokenizer = load_llm(folder)
    assert tokenizer.pad_token_id is not None
    assert not model.training
    cut(folder)
    assert f"language model {folder}: holds a model.safetensors" in refused(
        lambda: load_llm(folder)
    )


def test_a_lack_of_memory_is_not_the_models_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(MemoryError):
        open_language_model(str(folder), "llm.base")
