"""GGUF files open as plain models that train, are saved and open again; what transformers cannot
read of them is one user error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from boig_core.errors import InputError
from boig_core.llm.opening import open_language_model
from boig_core.models.language import check_language_model

VALUE = "llm.base = 'tiny'"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)
Change = Callable[[gguf.GGUFWriter], object]


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens by number, and merges, of a byte-level BPE of 300."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the high ball the low ball the moon and all"] * 9, trainer)
    numbers = tokenizer.get_vocab()
    tokens = sorted(numbers, key=numbers.__getitem__)
    tokens += [f"<unused{i}>" for i in range(300 - len(tokens))]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokens, [" ".join(merge) for merge in merges]


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix in llama.cpp's order."""
    out, width = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def write_gguf(file: Path, change: Change = lambda writer: None, skip: str = "none") -> Any:
    """A tiny Llama as llama.cpp's converter writes it, 4 bits a weight; gives the Llama."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(300)
    tokens, merges = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.state_dict().items():
        own = names.get_name(name, try_suffixes=(".weight",))
        if own is None or name.startswith("lm_head") or skip in own:
            continue
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        array = (permuted(weight, heads) if heads else weight).numpy()
        if array.ndim == 1 or array.shape[1] % 32:
            writer.add_tensor(own, array)
            continue
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(own, gguf.quantize(array, kind), raw_dtype=kind)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny-q4_1.gguf")
    return tmp_path


def test_it_opens_as_the_model_that_it_was_made_of(tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "tiny.gguf")
    tokenizer, model = open_language_model(str(tmp_path), VALUE, torch.float32)
    ids = tokenizer("the high ball", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "the high ball"
    assert tokenizer.apply_chat_template([{"content": "a"}], tokenize=False) == (
        "<|im_start|>a<|im_end|>"
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    with torch.no_grad():
        a, b = (m(input_ids=ids).logits.flatten() for m in (original, model.eval()))
    # 4 bits a weight leave an error of some hundredths; heads in a wrong order leave far more.
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "auto"])
def test_it_trains_and_is_saved_like_any_other(folder: Path, tmp_path: Path, dtype: Any) -> None:
    tokenizer, model = open_language_model(str(folder / "tiny-q4_1.gguf"), VALUE, dtype)
    assert model.dtype == (torch.float32 if dtype == "auto" else dtype)
    ids = tokenizer("the low moon", return_tensors="pt")["input_ids"]
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    text = (saved / "config.json").read_text()
    assert not any(word in text for word in ("quantization", "gguf", str(folder)))
    again = AutoModelForCausalLM.from_pretrained(saved)
    weights = again.state_dict()
    assert again.dtype == model.dtype
    assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())
    reopened = AutoTokenizer.from_pretrained(saved)
    assert reopened("the low moon")["input_ids"] == ids[0].tolist()
    assert reopened.chat_template == TEMPLATE


def refused(ref: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_language_model(str(ref), VALUE)
    message = str(caught.value)
    assert message.startswith(VALUE)
    assert "\n" not in message
    return message


def architecture(name: str) -> Change:
    return lambda writer: writer.add_string("general.architecture", name)


def factors(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))


REFUSED: dict[str, tuple[str, Change, str]] = {
    "scaled positions": ("scaled rotary", lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "none"),
    "factors of positions": ("scaled rotary", factors, "none"),
    "an adapter": ("no language model (adapter)", lambda w: w.add_type("adapter"), "none"),
    "a weight is missing": ("lacks 2 weights", lambda w: None, "attn_q"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_holds_is_refused(case: str, tmp_path: Path) -> None:
    says, change, skip = REFUSED[case]
    write_gguf(tmp_path / "tiny.gguf", change, skip)
    assert says in refused(tmp_path)


@pytest.mark.parametrize("name", ["bert", "clip", "t5", "no-such"])
def test_other_architectures_are_refused(name: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", name)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.6, 0.97])
def test_a_cut_file_is_refused(folder: Path, share: float) -> None:
    file = folder / "tiny-q4_1.gguf"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    refused(folder)


def test_files_among_which_nobody_can_choose(folder: Path) -> None:
    first = folder / "tiny-q4_1.gguf"
    (folder / "tiny-q8_0.gguf").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"2 GGUF files: tiny-q4_1\.gguf, tiny-q8_0\.gguf"):
        check_language_model(str(folder), VALUE)
    check_language_model(str(first), VALUE)
    for name, says in (("a-00001-of-00003.gguf", "in 3 parts"), ("mmproj-a.gguf", "leads images")):
        with pytest.raises(InputError, match=says):
            check_language_model(str(first.rename(folder / name)), VALUE)
        first = folder / name


def test_weights_of_transformers_come_first(folder: Path) -> None:
    tokenizer, model = open_language_model(str(folder), VALUE, torch.float32)
    model.model.norm.weight.data.fill_(2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert open_language_model(str(folder), VALUE)[1].model.norm.weight.eq(2).all()
