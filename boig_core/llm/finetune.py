"""Behavior fine-tuning of a causal language model: the loop, without knowing of Ray.

The same code trains BoigLLM, its no-KPI twin and the engagement predictor (`predictor`), which
differ in their `task` alone: from scratch or from a base model, all weights or a LoRA, in one
process or many. The loss is the sum over the answers' tokens of the whole step, over all ranks,
divided by their number, so that it does not depend on the number of workers, micro-batches or
packing. Leaves out: where samples come from, and starting processes (see `boig_core.cluster.train`
and, on one machine, `python -m boig_core.llm`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from boig_core.config import LLM, Recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.architecture import text_config
from boig_core.llm.base import make_model
from boig_core.llm.batches import Order
from boig_core.llm.best import FinetuneState, History
from boig_core.llm.examples import Encoded
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.packing import Layout, check_packing, layout_for
from boig_core.llm.publish import publish
from boig_core.llm.rehearsal import rehearse
from boig_core.llm.task import Describing, Task
from boig_core.llm.tokens import Example, set_limits
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Steps, progress_log
from boig_core.storage.job import Stage
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, init_process_group
from boig_core.training.engine_config import EngineConfig
from boig_core.training.ranks import rank, world_size
from boig_core.training.work import Work, digest, work_of
from boig_core.vocabulary import Sample

log = get_logger(__name__)
# Held-out samples at most, shared evenly by the task's groups: of three buckets 32 each.
_VALIDATION = 96


@dataclass(frozen=True)
class Trained:
    """A trained model on every rank, and what there is to say about its training.

    Attributes:
        engine: with the weights of the last step.
        best: with those of the best validation.
        tokenizer: the model's own.
        recipe: that it was trained by.
        task: that it was trained for.
        metrics: of the training.
    """

    engine: Engine
    best: FinetuneState
    tokenizer: Any
    recipe: Recipe
    task: Task
    metrics: dict[str, float]


def finetune(
    samples: Sequence[Sample], recipe: Recipe, *, with_kpi: bool, **options: Any
) -> Trained:
    """Train BoigLLM, or its twin, which is not told the KPI; options and errors as for `train`."""
    return train(samples, recipe, Describing(recipe, with_kpi), **options)


def train(
    samples: Sequence[Sample],
    recipe: Recipe,
    task: Task,
    *,
    checkpoints: Checkpoints | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    started: Callable[[Engine], None] = lambda engine: None,
    label: str = "",
) -> Trained:
    """Train one model on the training split; every rank calls it with the same arguments.

    Args:
        samples: of all splits, perceived; the validation split gives the validation loss, the test
            split is not looked at.
        recipe: its ``llm`` section, seed and the names of its KPIs.
        task: what the model is trained for.
        checkpoints: where to continue from and to save; None: neither.
        report: receives metrics by step, on rank 0.
        started: receives the engine before the first step, on rank 0.
        label: what its lines of progress begin with, where a stage trains several models.

    Raises:
        InputError: samples without descriptions, or a group of the task without samples.
        RecipeError: workers cannot share a batch evenly, or a base cannot be packed or published.
        TrainingDivergedError: the loss is not finite.
    """
    llm, ready = recipe.llm, _prepare(samples, recipe, task)
    engine, best, loss, held_out = ready.engine, ready.best, ready.loss, ready.held_out
    _begin(ready, checkpoints)
    if rank() == 0:
        started(engine)

    done = engine.steps_done
    progress = Steps(llm.steps, done, llm.batch, "samples", progress_log(label))
    while done < llm.steps and not (llm.patience and best.history.since >= llm.patience):
        info = engine.step(loss.of_step(ready.examples.drawn(ready.order.draws(done))))
        values = {"loss": info.loss, "lr": info.lr, "grad_norm": info.grad_norm}
        done = engine.steps_done
        if due := done % llm.checkpoint_every == 0 or done == llm.steps:
            values["val_loss"] = loss.validation(held_out)
            best.judge(done, values["val_loss"])
        if checkpoints is not None and (due or engine.leaving):
            checkpoints.save(best, done, best.state())
        if rank() == 0:
            report(done, values)
            progress.made(done, info.loss)
        if checkpoints is not None and engine.leaving:
            checkpoints.leave()
    if rank() == 0:
        progress.end(done)
    if checkpoints is not None:
        checkpoints.wait()
    metrics = {"train_samples": ready.samples, "steps": done, **ready.examples.cut}
    metrics |= _verdict(best.history, llm)
    return Trained(engine, best, ready.tokenizer, recipe, task, metrics)


def _begin(ready: _Ready, checkpoints: Checkpoints | None) -> None:
    """Go on from the newest checkpoint of this work; else validate what there is at the start."""
    restored = None if checkpoints is None else checkpoints.restore(ready.best, ready.work)
    if restored is None:
        ready.best.judge(0, ready.loss.validation(ready.held_out))
    else:
        ready.best.resume(restored.state)


@dataclass(frozen=True)
class _Ready:
    """What a training works with.

    Attributes:
        engine: with the model, before any step.
        best: the state that is saved.
        tokenizer: the model's own.
        loss: of a step, and of a validation.
        examples: of the training split.
        held_out: of the validation split.
        order: in which examples are drawn.
        samples: how many of the training split are used.
        work: what is trained on what.
    """

    engine: Engine
    best: FinetuneState
    tokenizer: Any
    loss: AnswerLoss
    examples: Encoded
    held_out: Encoded
    order: Order
    samples: int
    work: Work


def _work(samples: Sequence[Sample], recipe: Recipe, task: Task) -> Work:
    """What is trained on what, by which checkpoints are known."""

    def data() -> str:
        return digest([*_usable(samples, "train"), *_usable(samples, "validation")])

    return work_of(Stage.FINETUNE_LLM, recipe, data, {"kind": task.kind, **task.about})


def _prepare(samples: Sequence[Sample], recipe: Recipe, task: Task) -> _Ready:
    """Model, examples and loss of a training, the same on every rank."""
    init_process_group()
    llm = recipe.llm
    if llm.batch % world_size():
        raise RecipeError(
            f"llm.batch = {llm.batch}",
            f"must be a multiple of llm.workers = {world_size()}",
            "change one of them",
        )
    chosen = _usable(samples, "train")
    tokenizer, model = make_model(llm, task.prompts(chosen), recipe.seed)
    set_limits(model, tokenizer, llm.context, task.longest_answer)
    examples = task.examples(tokenizer, chosen)
    if llm.base is not None:
        rehearse(model, tokenizer, llm, task, chosen[0], examples[0])
    # Before the engine, which trains the parameters that there are by then; after a LoRA has frozen
    # the base, so that what is added stays trainable.
    task.fit(model)
    # At every validation as their first pass has them, so that losses can be compared.
    held_out = task.examples(tokenizer, _first(task, _usable(samples, "validation")))
    order = Order(task.groups(chosen), llm.batch, recipe.seed)
    engine = Engine.create(model, replace(engine_config(llm), lr=task.lr))
    loss = checked_loss(engine, llm, tokenizer.pad_token_id, examples[:2], task.loss)
    best = FinetuneState(engine)
    # Ranks began with equal weights, and from here on each has its own dropout.
    torch.manual_seed(recipe.seed + rank())
    work = _work(samples, recipe, task)
    return _Ready(engine, best, tokenizer, loss, examples, held_out, order, len(chosen), work)


def _verdict(history: History, llm: LLM) -> dict[str, float]:
    """What the validations say of the whole training; empty without any."""
    if (
        history.first is None
        or history.last is None
        or history.best is None
        or history.fell is None
    ):
        return {}
    if rank() == 0 and llm.patience and history.since >= llm.patience:
        log.info(
            "stopped early: %d validations without a loss below %.4f of step %d",
            history.since,
            history.best,
            history.best_step,
        )
    if rank() == 0 and not history.fell:
        log.warning(
            "the validation loss never fell: %.4f before training, at best %.4f after it",
            history.first,
            history.best,
        )
    return {
        "first_val_loss": history.first,
        "last_val_loss": history.last,
        "best_val_loss": history.best,
        "best_step": history.best_step,
        "loss_fell": history.fell,
    }


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
        offload=llm.offload,
    )


def checked_loss(
    engine: Engine,
    llm: LLM,
    pad: int,
    examples: Sequence[Example],
    make: Callable[[Engine, Layout, int], AnswerLoss] = AnswerLoss,
) -> AnswerLoss:
    """The loss of a training, after a look at whether this very model computes packed samples as it
    computes them alone.

    Args:
        engine: with the model.
        llm: the recipe's section.
        pad: token id of padding.
        examples: a few, to try the loss on.
        make: makes the loss.

    Raises:
        RecipeError: packing is asked for, and samples of one row see each other.
    """
    model: Any = engine.module
    layout = layout_for(model, pad, llm.context, packing=llm.packing)
    loss = make(engine, layout, llm.micro_batch)
    # With dropout no sample would be computed twice alike.
    model.eval()
    if layout.room:
        check_packing(engine, text_config(model).vocab_size, type(model).__name__, engine.device)
    loss.check(examples)
    model.train()
    return loss


def export(trained: Trained, folder: Path) -> None:
    """Publish the best weights as an ordinary transformers folder with a model card (rank 0; every
    rank must call it).

    A LoRA is merged into its base, so that whoever reads the folder needs neither peft nor the
    base.
    """
    state = trained.engine.state_dict(everywhere=False)
    if rank() == 0:
        # The best weights are those that are trained; frozen ones and buffers come from the last
        # step.
        state |= trained.best.weights()
        publish(
            trained.engine.module, trained.tokenizer, state, trained.task, trained.metrics, folder
        )


def _usable(samples: Sequence[Sample], split: str) -> list[Sample]:
    # A post that misses its bucket's floor has no label that a prompt could tell.
    chosen = [s for s in samples if s.split == split and s.bucket is not None]
    if any(s.description is None for s in chosen):
        raise InputError(
            f"the {split} split", "holds images without a description", "run perceive first"
        )
    return chosen


def _first(task: Task, samples: Sequence[Sample]) -> list[Sample]:
    groups = task.groups(samples)
    return [samples[row] for rows in groups.values() for row in rows[: _VALIDATION // len(groups)]]
