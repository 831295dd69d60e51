"""A language model that somebody names opens right, or is refused in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from boig_core.config import parse_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.base import make_model
from boig_core.llm.generate import load_llm
from boig_core.llm.opening import open_language_model
from boig_core.llm.packing import Layout
from boig_core.llm.tokens import build_tokenizer, encode_examples
from boig_core.models.language import check_language_model
from tests.unit.models.test_files import POINTER

Spoil = Callable[[Path], object]
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


def edit(name: str, **values: Any) -> Spoil:
    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **values}))

    return change


def write(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*patterns: str) -> Spoil:
    return lambda folder: [path.unlink() for name in patterns for path in folder.glob(name)]


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shard(folder: Path) -> None:
    """Two shards, of which the second is missing."""
    weights = load_file(folder / "model.safetensors")
    places = {name: f"{2 if 'norm' in name else 1}.safetensors" for name in weights}
    save_file(
        {name: weights[name] for name in weights if "norm" not in name}, folder / "1.safetensors"
    )
    (folder / "model.safetensors").unlink()
    edit("model.safetensors.index.json", weight_map=places)(folder)


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Spoil:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def add_tokens(**tokens: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.add_special_tokens(tokens)
        tokenizer.save_pretrained(folder)

    return spoil


def diffusers(folder: Path) -> None:
    remove("*")(folder)
    edit("model_index.json", _class_name="StableDiffusionPipeline")(folder)


def fp16_bin(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(
        {name: tensor.half() for name, tensor in weights.items()}, folder / "pytorch_model.bin"
    )
    (folder / "model.safetensors").unlink()


# What the first line says, and how the folder comes to be so. Told without torch.
AT_A_GLANCE: dict[str, tuple[str, Spoil]] = {
    "weights are a pointer": ("LFS pointer in place of model", write("model.safetensors", POINTER)),
    "tokenizer is a pointer": ("pointer in place of tokeni", write("tokenizer.json", POINTER)),
    "config is a pointer": ("LFS pointer in place of config", write("config.json", POINTER)),
    "pickle is a pointer": (
        "LFS pointer in place of pytorch_model",
        lambda folder: (
            remove("*.safetensors")(folder),
            write("pytorch_model.bin", POINTER)(folder),
        ),
    ),
    "weights are cut off": ("its header promises", cut),
    "weights are empty": ("empty model.safetensors", write("model.safetensors", b"")),
    "weights are no safetensors": (
        "cut off or no safetensors",
        write("model.safetensors", b"<html>not found</html>" * 9),
    ),
    "config is cut off": ("config.json that is no JSON", write("config.json", b'{"model_type"')),
    "config is a list": ("config.json that is no object", write("config.json", b"[]")),
    "tokenizer is cut off": ("tokenizer.json that is no JSON", write("tokenizer.json", b'{"a')),
    "weights are missing": ("holds no weights", remove("*.safetensors")),
    "config is missing": ("there is no config.json", remove("config.json")),
    "tokenizer is missing": ("holds no tokenizer", remove("tokenizer*")),
    "a shard is missing": ("lacks 1 of the 2 shards", shard),
    "nothing is there": ("there is no config.json", remove("*")),
    "diffusers": ("is a diffusers pipeline", diffusers),
    "bitsandbytes": (
        "is quantized (bitsandbytes, 4 bits)",
        edit(
            "config.json",
            quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"},
        ),
    ),
    **{
        method: (
            f"is quantized ({method})",
            edit("config.json", quantization_config={"quant_method": method, "bits": 4}),
        )
        for method in ("gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "of-tomorrow")
    },
    "old GPTQ": ("is quantized (GPTQ", edit("quantize_config.json", bits=4)),
    "quantized text part": (
        "is quantized (awq)",
        edit("config.json", text_config={"quantization_config": {"quant_method": "awq"}}),
    ),
    "adapter alone": (
        "of the model meta-llama/L; merge it",
        lambda folder: (
            remove("*")(folder),
            edit("adapter_config.json", base_model_name_or_path="meta-llama/L")(folder),
        ),
    ),
    "adapter beside a model": (
        "holds an adapter (LoRA) of the model that its card names",
        edit("adapter_config.json", peft_type="LORA"),
    ),
    "encoder-decoder": (
        "is an encoder-decoder model (t5)",
        edit("config.json", is_encoder_decoder=True, model_type="t5"),
    ),
    "another head": (
        "is a LlamaForSequenceClassification, which does not write",
        edit("config.json", architectures=["LlamaForSequenceClassification"]),
    ),
}
# Told when it is opened.
OPENED: dict[str, tuple[str, Spoil]] = {
    "tokenizer has settings alone": ("tokeni", remove("tokenizer.json")),
    "code of its own": (
        "needs code of its own (auto_map)",
        edit("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
    ),
    "a type of tomorrow": ("does not know: 'llama9'", edit("config.json", model_type="llama9")),
    "no type": ("does not know: None", edit("config.json", model_type=None)),
    "settings of another type": ("cannot be opened", edit("config.json", num_hidden_layers="two")),
    "more layers than weights": ("of its weights", edit("config.json", num_hidden_layers=3)),
    "other shapes": ("cannot be opened", edit("config.json", intermediate_size=48)),
    "a weight is missing": (
        "lacks 1 of its weights, model.norm.weight",
        change_weights(lambda weights: weights.pop("model.norm.weight")),
    ),
    "a weight is not finite": (
        "logits that are not finite",
        change_weights(lambda weights: weights["model.norm.weight"].fill_(float("nan"))),
    ),
    "pad beyond the embeddings": ("'[PAD]' is number", add_tokens(pad_token="[PAD]")),
    "chat tokens beyond the embeddings": (
        "2 tokens beyond them: '<|im_start|>'",
        add_tokens(additional_special_tokens=["<|im_start|>", "<|im_end|>"]),
    ),
    "no EOS": ("without a token that ends a text", edit("tokenizer_config.json", eos_token=None)),
    "tokenizer of strangers": ("cannot be opened", write("tokenizer.json", b'{"model": 1}')),
    "pad of the config beyond": ("cannot be opened", edit("config.json", pad_token_id=10_000)),
    "GGUF of strangers": (
        "", lambda folder: (remove("*")(folder), write("a.gguf", b"no model")(folder)),
    ),
}  # fmt: skip
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
    "a body without a head": ("Llama", "Model", TEXT, "lacks 1 of its weights, lm_head"),
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


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file" in refused(lambda: base(folder / "model.safetensors"))


def test_pickled_half_precision_weights_open_in_the_recipes_precision(folder: Path) -> None:
    plain = {name: p.half().float() for name, p in base(folder)[1].named_parameters()}
    fp16_bin(folder)
    for dtype in (torch.float32, torch.bfloat16):
        _, model = base(folder, dtype=str(dtype).removeprefix("torch."))
        assert all(torch.equal(p, plain[name].to(dtype)) for name, p in model.named_parameters())


def test_embeddings_may_outnumber_the_tokens(words: Any, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=len(words) + 27, **TEXT)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    tokenizer, model = base(tmp_path)
    assert (len(tokenizer), model.vocab_size) == (len(words), len(words) + 27)


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
