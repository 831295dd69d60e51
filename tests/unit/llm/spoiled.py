"""Ways in which the folder of a language model is not what it should be, and what boig says of
each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.unit.models.test_files import POINTER

Spoil = Callable[[Path], object]


def edit(name: str, **values: Any) -> Spoil:
    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **values}))

    return change


def write(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*patterns: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in patterns:
            for path in folder.glob(name):
                path.unlink()

    return spoil


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


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
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


def cut_bin(folder: Path) -> None:
    fp16_bin(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    "more layers than weights": (" weights, ", edit("config.json", num_hidden_layers=3)),
    "other shapes": ("cannot be opened", edit("config.json", intermediate_size=48)),
    "a weight is missing": (
        "lacks 1 weights, model.norm.weight",
        change_weights(lambda weights: weights.pop("model.norm.weight")),
    ),
    "a weight is not finite": (
        "logits that are not finite",
        change_weights(lambda weights: weights["model.norm.weight"].fill_(float("nan"))),
    ),
    "a pickle is cut off": ("cannot be opened", cut_bin),
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
