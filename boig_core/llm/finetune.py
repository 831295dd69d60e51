"""Behaviour fine-tuning of a causal language model (PAPER sections 3 and 4): the loop, without knowing of Ray.

The same code trains BoigLLM and its no-KPI twin, from scratch or from a base model, in one process or many. The loss is the sum over
the answers' tokens of the whole step, over all ranks, divided by their number, so that it does not depend on the number of workers.
Leaves out: where samples come from, and starting processes (see `boig_core.cluster.train`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from boig_core.config import LLM, Recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.batches import IGNORE, BalancedOrder, collate
from boig_core.llm.tokens import Example, build_tokenizer, encode_examples
from boig_core.observability.logs import get_logger
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, EngineConfig, init_process_group, rank, world_size
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import BUCKETS, Sample

log = get_logger(__name__)
_VALIDATION = 96
_LOG_EVERY = 20


@dataclass(frozen=True)
class Trained:
    """A trained model on every rank, and what there is to say about its training."""

    engine: Engine
    tokenizer: Any
    metrics: dict[str, float]


def finetune(
    samples: Sequence[Sample],
    recipe: Recipe,
    *,
    with_kpi: bool,
    checkpoints: Checkpoints | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
) -> Trained:
    """Train one model on the training split; every rank calls it with the same arguments.

    Args:
        samples: of all splits, perceived; the validation split gives the validation loss, the test split is not looked at.
        recipe: its ``llm`` section and seed.
        with_kpi: tell the model each sample's KPI; without, the twin.
        checkpoints: where to continue from and to save; none: neither.
        report: receives metrics by step, on rank 0.

    Raises:
        InputError: samples without descriptions, or a bucket without samples.
        RecipeError: a batch that the workers cannot share evenly.
        TrainingDivergedError: the loss is not finite.
    """
    init_process_group()
    llm = recipe.llm
    if llm.batch % world_size():
        raise RecipeError(f"llm.batch = {llm.batch}", f"must be a multiple of llm.workers = {world_size()}", "change one of them")
    train = _usable(samples, "train")
    tokenizer, model = make_model(llm, [build_prompt(s, condition_of(s)) for s in train], recipe.seed)
    examples = make_examples(tokenizer, train, llm.context, with_kpi=with_kpi)
    held_out = make_examples(tokenizer, _balanced(_usable(samples, "validation"), _VALIDATION), llm.context, with_kpi=with_kpi)
    order = BalancedOrder(train, llm.batch, recipe.seed)
    engine = Engine.create(model, engine_config(llm))
    if checkpoints is not None:
        checkpoints.restore(engine)
    torch.manual_seed(recipe.seed)

    started, values = time.monotonic(), {"val_loss": float("nan")}
    for step in range(engine.steps_done, llm.steps):
        info = engine.step(micro_losses(engine, [examples[i] for i in order.rows(step)], llm.micro_batch, tokenizer.pad_token_id))
        values = {"loss": info.loss, "lr": info.lr, "grad_norm": info.grad_norm}
        done = step + 1
        if done % llm.checkpoint_every == 0 or done == llm.steps:
            values["val_loss"] = validation_loss(engine, held_out, llm.micro_batch, tokenizer.pad_token_id)
            if checkpoints is not None:
                checkpoints.save(engine, done)
        if rank() == 0:
            report(done, values)
            if done % _LOG_EVERY == 0 or done == llm.steps:
                log.info("step %d of %d · loss %.3f · %.0f s", done, llm.steps, info.loss, time.monotonic() - started)
    final = validation_loss(engine, held_out, llm.micro_batch, tokenizer.pad_token_id)
    if checkpoints is not None:
        checkpoints.wait()
    return Trained(engine, tokenizer, {"val_loss": final, "train_samples": len(train), "steps": engine.steps_done})


def make_model(llm: LLM, prompts: Sequence[str], seed: int) -> tuple[Any, Any]:
    """Tokenizer and model: a base with its own tokenizer, or a Llama from scratch with a tokenizer built from the prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    dtype = torch.bfloat16 if llm.dtype == "bfloat16" else torch.float32
    if llm.base is not None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(llm.base)
            model = AutoModelForCausalLM.from_pretrained(llm.base, dtype=dtype)
        except (OSError, ValueError) as exc:
            first = str(exc).strip().splitlines()[0]
            raise RecipeError(f"llm.base = {llm.base!r}", f"cannot be opened ({first})", "give a hub id or a local folder") from exc
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer, model
    tokenizer = build_tokenizer(prompts, llm.vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=llm.hidden,
        intermediate_size=llm.hidden * 8 // 3,
        num_hidden_layers=llm.layers,
        num_attention_heads=llm.heads,
        num_key_value_heads=llm.heads,
        max_position_embeddings=llm.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, LlamaForCausalLM(config).to(dtype)


def make_examples(tokenizer: Any, samples: Sequence[Sample], context: int, *, with_kpi: bool) -> list[Example]:
    """Samples as prompt and answer tokens, with or without their KPI in the prompt."""
    prompts = [build_prompt(s, condition_of(s) if with_kpi else None) for s in samples]
    return encode_examples(tokenizer, prompts, [print_answer(s.description) for s in samples if s.description], context)


def engine_config(llm: LLM) -> EngineConfig:
    """The recipe's section as the engine's."""
    return EngineConfig(
        lr=llm.lr,
        steps=llm.steps,
        warmup=llm.warmup,
        weight_decay=llm.weight_decay,
        grad_clip=llm.grad_clip,
        zero_stage=llm.zero_stage,
        dtype=llm.dtype,
    )


def micro_losses(engine: Engine, batch: Sequence[Example], micro: int, pad: int) -> list[Callable[[], Tensor]]:
    """This rank's micro-batch losses of a step's whole batch, scaled so that their mean over ranks is the loss a token."""
    tokens = sum(len(example.answer_T) for example in batch)
    mine = batch[rank() :: world_size()]
    parts = [mine[start : start + micro] for start in range(0, len(mine), micro)]
    return [lambda part=part: answer_loss(engine, part, pad) * (world_size() / tokens) for part in parts]  # type: ignore[misc]


def answer_loss(engine: Engine, examples: Sequence[Example], pad: int) -> Tensor:
    """Sum of the cross-entropy, in nats, of the answers' tokens."""
    ids_BT, labels_BT = (x.to(engine.device) for x in collate(examples, pad))
    # Logits are made for the columns that can hold answers alone: the vocabulary is the widest part of a small model.
    keep = ids_BT.shape[1] - min(len(example.prompt_T) for example in examples) + 1
    logits_BKV = engine(input_ids=ids_BT, logits_to_keep=keep, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits_BKV.flatten(0, 1), labels_BT[:, 1 - keep :].flatten(), ignore_index=IGNORE, reduction="sum")


@torch.no_grad()
def validation_loss(engine: Engine, examples: Sequence[Example], micro: int, pad: int) -> float:
    """Loss a token on held-out samples, in equal shares of the ranks (ZeRO 3 needs all of them in each forward pass)."""
    mine = examples[rank() : len(examples) // world_size() * world_size() : world_size()]
    if not mine:
        return float("nan")
    parts = [mine[start : start + micro] for start in range(0, len(mine), micro)]
    nats = sum(float(answer_loss(engine, part, pad)) for part in parts)
    tokens = sum(len(example.answer_T) for example in mine)
    summed = engine.total(torch.tensor([nats, tokens], dtype=torch.float64))
    return float(summed[0] / summed[1])


def export(trained: Trained, folder: Path) -> None:
    """Write the model as an ordinary transformers folder (rank 0; every rank must call it)."""
    state = trained.engine.state_dict()
    if rank() == 0:
        trained.engine.module.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
        trained.tokenizer.save_pretrained(folder)


def _usable(samples: Sequence[Sample], split: str) -> list[Sample]:
    chosen = [s for s in samples if s.split == split and s.bucket is not None]
    if any(s.description is None for s in chosen):
        raise InputError(f"the {split} split", "holds images without a description", "run perceive first")
    return chosen


def _balanced(samples: Sequence[Sample], count: int) -> list[Sample]:
    each = count // len(BUCKETS)
    return [s for bucket in BUCKETS for s in [x for x in samples if x.bucket == bucket][:each]]
