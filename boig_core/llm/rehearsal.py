"""The way to a published model, walked before the first step: what cannot be published is refused
before it is trained.

Walked are a step's gradients, save, merge, reload and one answer, on a model of the same class and
configuration that has only as many layers as it takes to have one of each kind
(decision 0026). All its weights are drawn anew, so that each of them says something: a LoRA begins
with zeros, and a weight that is lost on the way would often be as a new one is. Of the whole model
all names and shapes are compared, without memory. Leaves out: whether samples may share a row
(`packing.check_packing`). Shape letters: N answer tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from boig_core.config import LLM
from boig_core.errors import BoigError, InfrastructureError, InputError, RecipeError
from boig_core.llm.architecture import text_config
from boig_core.llm.base import prepared
from boig_core.llm.packing import Layout, Rows
from boig_core.llm.publish import plain_config, plain_model, publish, saved_names
from boig_core.llm.task import Task
from boig_core.llm.tokens import Example
from boig_core.observability.logs import get_logger
from boig_core.training.ranks import of_first_rank, rank
from boig_core.vocabulary import Sample

log = get_logger(__name__)
_APART: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference of log-probabilities that rounding explains, as a share of their spread, by
the precision of what is saved: the median over tokens of the largest over the vocabulary, since a
rounded number may send a token to another expert. Both models compute in float32."""
_SEED: Final = 26
_LAYER: Final = re.compile(r"(?P<before>.*?\.)(?P<index>\d+)(?P<after>\..*)")


def rehearse(
    model: Any, tokenizer: Any, llm: LLM, task: Task, sample: Sample, example: Example
) -> None:
    """Walk the way to a published model; every rank calls it, rank 0 walks.

    Args:
        model: as it is trained, whole, before the task adds what is its own; left as it is.
        tokenizer: its own.
        llm: the recipe's section, with a base.
        task: that it will be trained for.
        sample: that one answer is asked for.
        example: the same, encoded.

    Raises:
        RecipeError: the model cannot be trained, published, or read again; on every rank.
        InfrastructureError: the machine has no room for it; on every rank.
    """
    verdict: BoigError | None = None
    if rank() == 0:
        # Random numbers of the training are those that it would have without a rehearsal.
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(_SEED)
            try:
                _walk(model, tokenizer, llm, task, sample, example)
            except BoigError as exc:
                verdict = exc
    verdict = of_first_rank(verdict)
    if verdict is not None:
        raise verdict


def _walk(
    model: Any, tokenizer: Any, llm: LLM, task: Task, sample: Sample, example: Example
) -> None:
    value, remedy = f"llm.base = {llm.base!r}", "give another base"
    if llm.lora_rank is not None:
        remedy += ", or train without llm.lora_rank"
    step = partial(_step, value, type(model).__name__, remedy)
    with step("published"):
        small = _shortened(model, llm)
        task.fit(small)
        _draw_weights(small)
    with step("trained"):
        rows = Layout(tokenizer.pad_token_id)([example])
        torch.autograd.backward(_logprobs(small, rows).sum())
        small.zero_grad()
    with tempfile.TemporaryDirectory(prefix="boig-rehearsal-") as scratch:
        with step("published"):
            state = {name: tensor.detach() for name, tensor in small.eval().state_dict().items()}
            publish(small, tokenizer, state, task, {}, Path(scratch))
        with step("read again"):
            reread, own_tokenizer = task.reopen(Path(scratch), sample)
            (again,) = task.examples(own_tokenizer, [sample])[:]
            apart = _apart(small, reread, rows)
    if _tokens(example) != _tokens(again):
        rule = "has a tokenizer that reads otherwise once it is saved"
        raise RecipeError(value, rule, "give another base")
    # In this form NaN counts as apart.
    if not apart <= _APART.get(reread.dtype, 0.0):
        rule = f"says otherwise once it is published: log-probabilities differ by {apart:.2g} of their spread"
        raise RecipeError(value, rule, remedy)


@contextmanager
def _step(value: str, kind: str, remedy: str, name: str) -> Iterator[None]:
    """A step of the way: whatever a library raises in it becomes one line."""
    try:
        yield
    except InputError as exc:
        # What was saved does not open again: the base is at fault, not a folder of this process.
        raise RecipeError(value, f"cannot be {name} as {kind} ({exc.rule})", remedy) from exc
    except BoigError:
        raise
    except Exception as exc:
        line = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        reason = line if isinstance(exc, ValueError) else f"{type(exc).__name__}: {line}"
        if _is_of_machine(exc):
            rule = f"leaves no room to try how it is {name} ({reason})"
            raise InfrastructureError(value, rule, "make room on this machine") from exc
        raise RecipeError(value, f"cannot be {name} as {kind} ({reason})", remedy) from exc


def _shortened(model: Any, llm: LLM) -> Any:
    """A new model of the same kind, prepared for training alike, with as few layers as hold one of
    each kind, and all of them where its configuration does not take fewer.

    Raises:
        RecipeError: the whole model has other weights than a plain one of its configuration.
    """
    names = saved_names(model)
    state = {
        name: tensor.to("meta") for name, tensor in model.state_dict().items() if name in names
    }
    plain, weights = plain_model(model, state)
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    config = plain_config(model)
    # A few old architectures count their layers otherwise: these are walked whole.
    if layers := getattr(text_config(model), "num_hidden_layers", None):
        count = _kinds(text_config(model), shapes)
        fewer = _cut(plain_config(model), count)
        if _is_part(type(model), copy.deepcopy(fewer), shapes):
            config = fewer
            log.info("publishing is tried with %d of %d layers", count, layers)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        small = type(model)(config).to(plain.dtype)
    small.generation_config = model.generation_config
    return prepared(small, llm)


def _is_part(kind: type, config: Any, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether a model of a configuration has some of the weights of these shapes, and no other."""
    try:
        with torch.device("meta"):
            model = kind(config)
    # Some architectures need all of their layers, and say so in their own ways.
    except Exception:
        return False
    state = model.state_dict()
    return all(shapes.get(name) == state[name].shape for name in saved_names(model))


def _cut(config: Any, count: int) -> Any:
    """A configuration with the first layers alone; what it lists by layer is cut as well."""
    text = config.get_text_config(decoder=True)
    for name, values in _by_layer(text).items():
        setattr(text, name, values[:count])
    text.num_hidden_layers = count
    return config


def _by_layer(text: Any) -> dict[str, list[Any]]:
    """What a configuration lists by layer, such as which of them attend to the whole text."""
    return {
        name: values
        for name, values in text.to_dict().items()
        if isinstance(values, list) and len(values) == text.num_hidden_layers
    }


def _kinds(text: Any, shapes: Mapping[str, torch.Size]) -> int:
    """How many of the first layers hold one of each kind: alike in the shapes of their weights and
    in what the configuration lists of them."""
    kinds: dict[int, set[tuple[Any, ...]]] = {
        index: {(name, repr(values[index])) for name, values in _by_layer(text).items()}
        for index in range(text.num_hidden_layers)
    }
    for name, shape in shapes.items():
        if (match := _LAYER.fullmatch(name)) and int(match["index"]) in kinds:
            kinds[int(match["index"])].add((match["before"], match["after"], shape))
    first: dict[frozenset[Any], int] = {}
    for index, kind in kinds.items():
        first.setdefault(frozenset(kind), index)
    return max(first.values()) + 1


@torch.no_grad()
def _draw_weights(model: Any) -> None:
    """Give every weight a random value of the size that trained ones have."""
    for param in model.parameters():
        if param.dim() < 2:
            param.add_(torch.randn_like(param), alpha=0.1)
        else:
            param.normal_(0.0, param.shape[-1] ** -0.5)


def _logprobs(model: Any, rows: Rows) -> Tensor:
    """Natural log-probabilities of all tokens in place of each of an answer's, (N, V)."""
    logits_NV: Tensor = model(**rows.inputs(model.device)).logits
    return logits_NV.float().log_softmax(-1)


@torch.no_grad()
def _apart(model: Any, reread: Any, rows: Rows) -> float:
    """How far two models are apart, as a share of the spread."""
    # Of one kind in both, and of one that computes in float32.
    model.set_attn_implementation(reread.config._attn_implementation)
    precision = reread.dtype
    want_NV, got_NV = _logprobs(model.float(), rows), _logprobs(reread.float(), rows)
    reread.to(precision)
    return float((want_NV - got_NV).abs().amax(-1).median() / want_NV.std())


def _tokens(example: Example) -> list[int]:
    return [*example.prompt_T.tolist(), *example.answer_T.tolist()]


def _is_of_machine(exc: BaseException) -> bool:
    """Whether an error says that memory or disk ran out, which says nothing about a model."""
    full = isinstance(exc, OSError) and exc.errno is not None
    # safetensors has one class for all, and the CPU's allocator one of all of torch.
    named = "os error" in str(exc) or "allocate memory" in str(exc)
    return full or named or isinstance(exc, (MemoryError, torch.OutOfMemoryError))
