from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from boig_core.llm.base import make_model
from boig_core.llm.finetune import Trained, export, finetune
from boig_core.llm.generate import generate_answers
from boig_core.llm.packing import Layout
from boig_core.llm.publish import plain_config
from boig_core.llm.publish import publish as write
from boig_core.llm.score import answer_logprobs
from boig_core.llm.task import Describing
from boig_core.llm.tokens import set_limits
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import Sample
from tests.unit.llm.architectures import CONFIGS, EXPERTS, build_model, save_base, small

MakeSamples = Callable[[int], list[Sample]]
QUICK = ("llama, tied", "gpt2", "mixtral", "mamba", "gemma3, with images")
ALL = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CONFIGS]


def publish(base: str, samples: list[Sample], folder: Path, **llm: Any) -> Trained:
    trained = finetune(samples, small(base, **llm), with_kpi=True)
    export(trained, folder)
    trained.engine.module.eval()
    return trained


def open_plainly(folder: Path) -> Any:
    """By transformers alone, all of whose weights stand in the folder, and no other."""
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@torch.no_grad()
def answers_logprobs(model: Any, trained: Trained, samples: list[Sample]) -> Tensor:
    """Log-probabilities of some samples' answers, token by token."""
    rows = Layout(trained.tokenizer.pad_token_id)(
        trained.task.examples(trained.tokenizer, samples[:4])[:]
    )
    logits_NV = model(**rows.inputs(torch.device("cpu"))).logits
    return logits_NV.float().log_softmax(-1).gather(1, rows.targets_N[:, None])[:, 0]


def check_folder(folder: Path, dtype: str) -> None:
    """What stands in it is a plain model in one precision, which the configuration names."""
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json", ".md"}
    weights = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == dtype
    assert "quantization_config" not in config
    assert not [name for name in weights if "lora" in name or "base_layer" in name]


def check_experts(base: Path, after: Any) -> None:
    """Both matrices of every expert in both layers were trained."""
    before = AutoModelForCausalLM.from_pretrained(base)
    fused = [key for key, p in before.named_parameters() if p.dim() == 3 and "experts" in key]
    assert len(fused) == 4
    for key in fused:
        change_EOI = after.get_parameter(key) - before.get_parameter(key)
        assert (change_EOI.flatten(1).abs().amax(1) > 0).all(), f"an expert of {key} stands still"


@pytest.mark.parametrize("lora_rank", [None, 4])
@pytest.mark.parametrize("name", ALL)
def test_what_is_published_computes_what_was_trained(
    name: str, lora_rank: int | None, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(30)
    base = save_base(name, samples, tmp_path / "base")
    trained = publish(base, samples, tmp_path / "model", lora_rank=lora_rank)
    check_folder(tmp_path / "model", "float32")
    want_N = answers_logprobs(trained.engine, trained, samples)
    model, tokenizer = open_plainly(tmp_path / "model"), trained.tokenizer
    assert (want_N - answers_logprobs(model, trained, samples)).abs().max() < 1e-4
    if name in EXPERTS:
        check_experts(Path(base), model)
    prompts = [build_prompt(s, condition_of(s)) for s in samples[:2]]
    answers = [print_answer(s.description) for s in samples[:2] if s.description]
    assert len(generate_answers(model, tokenizer, prompts, max_new_tokens=3)) == 2
    assert len(answer_logprobs(model, tokenizer, prompts, answers)) == 2


@pytest.mark.parametrize("lora_rank", [None, 4])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_in_half_precision_too(
    zero_stage: int, lora_rank: int | None, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(30)
    base = save_base("mixtral", samples, tmp_path / "base")
    options = {"dtype": "bfloat16", "zero_stage": zero_stage, "lora_rank": lora_rank}
    trained = publish(base, samples, tmp_path / "model", **options)
    check_folder(tmp_path / "model", "bfloat16")
    model = open_plainly(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    # Log-probabilities of some -6, of numbers with 8 bits.
    want_N, got_N = (answers_logprobs(m, trained, samples) for m in (trained.engine, model))
    assert (want_N - got_N).abs().median() < 0.05


# As bases have them: Vicuna's, and others that transformers warns of and does not save.
GENERATION: list[dict[str, Any]] = [
    {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
    {"top_k": 5, "min_p": 0.1},
    {"early_stopping": True, "length_penalty": 2.0},
    {"num_beams": 4, "repetition_penalty": 1.3, "bad_words_ids": [[3]]},
    {"max_length": 4096, "forced_eos_token_id": 1, "suppress_tokens": [2]},
]


@pytest.mark.parametrize("options", GENERATION)
def test_a_generation_configuration_is_that_of_the_training(
    options: dict[str, Any], make_samples: MakeSamples, tmp_path: Path
) -> None:
    base, folder = Path(save_base("llama", make_samples(9), tmp_path / "base")), tmp_path / "model"
    (base / "generation_config.json").write_text(json.dumps(options))
    # Older bases say the same in their own configuration.
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **options}))
    recipe = small(str(base))
    tokenizer, model = make_model(recipe.llm, [], 0)
    set_limits(model, tokenizer, 160, 64)
    write(model, tokenizer, model.state_dict(), Describing(recipe, with_kpi=True), {}, folder)
    kept = json.loads((folder / "generation_config.json").read_text())
    assert kept.keys() <= {
        "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id",
        "transformers_version", "_from_model_config",
    }  # fmt: skip
    assert kept["max_new_tokens"] == 64
    assert kept["eos_token_id"] == tokenizer.eos_token_id
    # Whoever trains further saves it again.
    GenerationConfig.from_pretrained(folder).validate(strict=True)
    open_plainly(folder).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("tied", "said", "lora_rank"),
    [(True, True, None), (True, True, 4), (False, False, 4), (False, True, None), (False, True, 4)],
)
def test_embeddings_stay_as_tied_as_they_were(
    tied: bool, said: bool, lora_rank: int | None, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(30)
    base = Path(save_base("llama, tied" if tied else "llama", samples, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["tie_word_embeddings"] = said
    (base / "config.json").write_text(json.dumps(config))
    trained = publish(str(base), samples, tmp_path / "model", lora_rank=lora_rank)
    model = open_plainly(tmp_path / "model")
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied == model.config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) != tied
    want_N = answers_logprobs(trained.engine, trained, samples)
    assert (want_N - answers_logprobs(model, trained, samples)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_resized_embeddings_are_published_as_they_are(
    name: str, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(30)
    base = save_base(name, samples, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 13)
    model.save_pretrained(base)
    trained = publish(base, samples, tmp_path / "model", lora_rank=2)
    published = open_plainly(tmp_path / "model")
    assert len(published.get_input_embeddings().weight) == model.config.vocab_size
    want_N = answers_logprobs(trained.engine, trained, samples)
    assert (want_N - answers_logprobs(published, trained, samples)).abs().max() < 1e-4


def test_nothing_is_left_of_how_a_base_was_stored() -> None:
    model = build_model("llama", 64)
    model.config.quantization_config = {"quant_method": "gguf"}
    model.config.temperature = 0.7
    config = plain_config(model)
    assert not hasattr(config, "quantization_config")
    assert "temperature" not in json.loads(config.to_json_string())
    assert model.config.quantization_config, "the trained model's own is left alone"
