from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from boig_core.config import LLM
from boig_core.llm.lora import add_lora, merged
from tests.unit.llm.architectures import CONFIGS, EXPERTS, build_model


def with_lora(name: str) -> Any:
    """A model with a LoRA whose second half is not zero."""
    model = build_model(name, 64)
    add_lora(model, LLM(base="any", lora_rank=3, lora_alpha=5))
    torch.manual_seed(1)
    for key, param in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(param, std=0.1)
    return model.eval()


def by_peft(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Each matrix with its LoRA as peft itself has it."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            name = getattr(layer, "parameter_name", "weight")
            path = next(key for key, module in model.named_modules() if module is layer)
            weight = getattr(layer.get_base_layer(), name).detach()
            change = layer.get_delta_weight("default").detach()
            yield f"{path.replace('.base_layer', '')}.{name}", weight + change


@pytest.mark.parametrize("name", CONFIGS)
def test_a_lora_is_merged_as_peft_applies_it(name: str) -> None:
    model, plain = with_lora(name), build_model(name, 64)
    weights = merged(model, model.state_dict())
    assert weights.keys() == plain.state_dict().keys()
    expected = dict(by_peft(model))
    assert expected.keys() <= weights.keys()
    for key, weight in expected.items():
        assert torch.allclose(weights[key], weight, atol=1e-6), key
        assert not torch.equal(weight, plain.state_dict()[key]), key
    for key in weights.keys() - expected.keys():
        assert torch.equal(weights[key], plain.state_dict()[key]), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_is_rounded_once(dtype: torch.dtype) -> None:
    model = with_lora("mixtral")
    state = {
        key: tensor if "lora_" in key else tensor.to(dtype)
        for key, tensor in model.state_dict().items()
    }
    exact = merged(model, {key: tensor.double().float() for key, tensor in state.items()})
    for key, tensor in merged(model, state).items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, exact[key].to(dtype)), key


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_have_a_lora(name: str) -> None:
    model = with_lora(name)
    adapted = {
        layer.parameter_name
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and getattr(layer, "num_experts", 1) > 1
    }
    assert adapted == {"gate_up_proj", "down_proj"}


def test_layers_that_text_does_not_pass_have_none() -> None:
    adapted = [key for key, _ in by_peft(with_lora("gemma3, with images"))]
    assert adapted
    assert all("language_model.layers" in key for key in adapted)
    # Its other layers read their weights past a LoRA.
    assert {key.split(".")[-2] for key, _ in by_peft(with_lora("mamba"))} == {"in_proj"}


def test_linear_layers_without_one_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    for name in CONFIGS:
        with_lora(name)
    assert "no LoRA" not in caplog.text
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    ranks = {"kv_lora_rank": 8, "q_lora_rank": 8, "num_attention_heads": 2}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    groups = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "vocab_size": 64}
    config = DeepseekV3Config(**sizes, **heads, **ranks, **experts, **groups)
    add_lora(DeepseekV3ForCausalLM(config), LLM(base="any", lora_rank=3))
    assert "6 linear layers get no LoRA from peft, model.layers.0.mlp.gate_proj" in caplog.text
