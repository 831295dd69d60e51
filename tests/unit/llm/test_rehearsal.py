from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from boig_core.errors import BoigError, InfrastructureError, InputError, RecipeError, UserError
from boig_core.llm import lora, publish, rehearsal, task
from boig_core.llm.architecture import text_config
from boig_core.llm.base import make_model
from boig_core.llm.finetune import finetune
from boig_core.llm.predictor import Rating, train_predictor
from boig_core.llm.task import Describing
from boig_core.llm.tokens import set_limits
from boig_core.vocabulary import Sample
from tests.unit.llm.architectures import CONFIGS, build_model, save_base, small

MakeSamples = Callable[[int], list[Sample]]
Change = Callable[[Any], Any]
LORA = {"lora_rank": 4}


def raising(error: Exception) -> Change:
    def change(original: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            raise error

        return function

    return change


def transposed(original: Any) -> Any:
    """A merge that takes a square matrix for its transpose."""

    def change(*args: Any) -> torch.Tensor:
        matrix: torch.Tensor = original(*args)
        return matrix.mT if matrix.shape[-1] == matrix.shape[-2] else matrix

    return change


def too_strong(original: Any) -> Any:
    """A merge that is mistaken about alpha."""
    return lambda *args: original(*args) * 1.1


def losing(part: str) -> Change:
    """A save that loses some weights, which are then as new when they are read again."""

    def change(original: Any) -> Any:
        def save(self: Any, folder: Any, state_dict: Any, **options: Any) -> None:
            kept = {key: tensor for key, tensor in state_dict.items() if part not in key}
            original(self, folder, state_dict=kept, **options)

        return save

    return change


def other_end(original: Any) -> Any:
    """A tokenizer that forgets how answers end."""

    def save(self: Any, folder: Any, **options: Any) -> None:
        end, self.eos_token = self.eos_token, "<pad>"
        original(self, folder, **options)
        self.eos_token = end

    return save


LOST = r"cannot be read again as LlamaForCausalLM \(lacks 1 weights"
OTHERWISE = r"says otherwise once it is published: log-probabilities differ by [\d.]+ of their"
# What is faulty, how, in which training, and how it is told.
FAULTS: dict[str, tuple[Any, str, Change, dict[str, Any], str]] = {
    "a save refuses": (
        LlamaForCausalLM,
        "save_pretrained",
        raising(ValueError("invalid\nlines")),
        {},
        r"cannot be published as LlamaForCausalLM \(invalid\); give another base$",
    ),
    "an answer fails": (
        task,
        "generate_answers",
        raising(AttributeError("no cache")),
        {},
        r"cannot be read again as LlamaForCausalLM \(AttributeError: no cache\)",
    ),
    "a score fails": (
        task,
        "answer_logprobs",
        raising(KeyError("places")),
        {},
        r"cannot be read again as LlamaForCausalLM \(KeyError: 'places'\)",
    ),
    "a step fails": (
        LlamaForCausalLM,
        "forward",
        raising(TypeError("wants images")),
        {},
        r"cannot be opened \(TypeError: wants images\)",
    ),
    "a merge fails": (
        publish,
        "merged",
        raising(KeyError("experts.weight")),
        LORA,
        r"cannot be published as .* \(KeyError: 'experts.weight'\); .*train without llm\.lora_rank$",
    ),
    "a merge leaves names": (
        publish,
        "merged",
        lambda original: lambda model, state: dict(state),
        LORA,
        r"^LlamaForCausalLM: has \d+ weights that a plain model .* has not alike, .* among them",
    ),
    "a merge is transposed": (lora, "_change", transposed, LORA, OTHERWISE),
    "a merge is too strong": (lora, "_change", too_strong, LORA, OTHERWISE),
    "a matrix is lost": (LlamaForCausalLM, "save_pretrained", losing("up_proj"), {}, LOST),
    "a norm is lost": (LlamaForCausalLM, "save_pretrained", losing("input_layer"), {}, LOST),
    "a tokenizer is another": (
        PreTrainedTokenizerFast,
        "save_pretrained",
        other_end,
        {},
        r"has a tokenizer that reads otherwise once it is saved; give another base$",
    ),
}


@pytest.fixture(scope="module")
def samples(make_samples: MakeSamples) -> list[Sample]:
    return make_samples(30)


@pytest.fixture(scope="module")
def base(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base("llama", samples, tmp_path_factory.mktemp("base"))


def refused(samples: list[Sample], base: str, **llm: Any) -> BoigError:
    """Why a base is refused before there is an engine."""

    def started(engine: Any) -> None:
        raise AssertionError("a training began")

    with pytest.raises(BoigError) as caught:
        finetune(samples, small(base, **llm), with_kpi=True, started=started)
    return caught.value


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_published_is_refused_before_it_is_trained(
    fault: str, samples: list[Sample], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name, change, options, message = FAULTS[fault]
    monkeypatch.setattr(place, name, change(getattr(place, name)))
    error = refused(samples, base, **options)
    # What a base does as it opens is told as it opens.
    assert isinstance(error, InputError if name == "forward" else RecipeError)
    with pytest.raises(UserError, match=message):
        raise error
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_machine_without_room_says_nothing_of_a_base(
    error: Exception, samples: list[Sample], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", raising(error)(None))
    assert isinstance(refused(samples, base), InfrastructureError)


def test_all_ranks_hear_the_verdict_of_the_first(
    samples: list[Sample], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = RecipeError("llm.base", "cannot be saved", "give another")

    monkeypatch.setattr(rehearsal, "rank", lambda: 1)
    monkeypatch.setattr(rehearsal, "of_first_rank", lambda own: own or verdict)
    monkeypatch.setattr(rehearsal, "_walk", raising(AssertionError("rank 0 alone walks"))(None))
    assert refused(samples, base) is verdict


@pytest.mark.parametrize("options", [{}, LORA, {"dtype": "bfloat16"}])
def test_a_rehearsal_leaves_model_and_random_numbers_alone(
    options: dict[str, Any], samples: list[Sample], base: str
) -> None:
    llm = small(base, **options).llm
    tokenizer, model = make_model(llm, [], 0)
    describing = Describing(small(base), with_kpi=True)
    set_limits(model, tokenizer, llm.context, llm.max_new_tokens)
    example = describing.examples(tokenizer, samples[:1])[0]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    config, draws = model.config.to_json_string(), torch.get_rng_state()
    rehearsal.rehearse(model, tokenizer, llm, describing, samples[0], example)
    assert torch.equal(draws, torch.get_rng_state())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert model.config.to_json_string() == config
    assert model.training
    assert all(param.grad is None for param in model.parameters())


@pytest.mark.parametrize("method", ["text", "head"])
def test_a_predictor_is_rehearsed_as_one(
    method: str, samples: list[Sample], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(base, predictor=method, steps=1, checkpoint_every=1)
    assert train_predictor(samples, recipe).metrics["steps"] == 1
    monkeypatch.setattr(Rating, "reopen", raising(ValueError("no head"))(None))
    with pytest.raises(RecipeError, match=r"cannot be read again .* \(no head\)"):
        train_predictor(samples, recipe)


def kinds(model: Any) -> int:
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    return rehearsal._kinds(text_config(model), shapes)


def test_as_many_layers_are_walked_as_there_are_kinds() -> None:
    from transformers import AutoModelForCausalLM as Auto
    from transformers import DeepseekV3Config, Gemma3TextConfig, JambaConfig, MixtralConfig

    layers = {"num_hidden_layers": 12, "vocab_size": 64, "hidden_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    with torch.device("meta"):
        assert kinds(Auto.from_config(MixtralConfig(**layers, **heads))) == 1
        # Every sixth layer attends to the whole text.
        assert kinds(Auto.from_config(Gemma3TextConfig(**layers, **heads))) == 6
        # The first three have no experts.
        assert kinds(Auto.from_config(DeepseekV3Config(**layers, **heads, n_routed_experts=2))) == 4
        # Attention in the fifth of eight, experts in every other.
        assert kinds(Auto.from_config(JambaConfig(**layers, **heads, num_experts=2))) == 5


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_walked_is_a_part_of_the_whole(name: str) -> None:
    model = build_model(name, 64)
    walked = rehearsal._shortened(model, small("any", lora_rank=2).llm)
    names = {key for key in walked.state_dict() if "lora_" not in key}
    whole = model.state_dict().keys()
    assert {key.replace(".base_layer", "") for key in names} <= whole
    assert type(walked) is type(model)
    assert len(names) < len(whole) or "gemma" in name or name == "gpt-oss"
