"""The training engine: DeepSpeed behind one small class, the same under Ray Train, ``torchrun`` and
one plain process.

Owns the optimizer (AdamW), the learning rate, ZeRO, gradient clipping, the refusal of a loss or a
gradient that is not finite, and saving and loading its whole state. This is the only module that
imports deepspeed. Leaves out: data, losses, where checkpoints go (see `checkpoint`) and how
processes are started (see `boig_core.cluster.train`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from boig_core.errors import RecipeError, TrainingDivergedError
from boig_core.training.engine_config import EngineConfig, deepspeed_settings
from boig_core.training.gradients import diverged, gradient_norm
from boig_core.training.preemption import noticed
from boig_core.training.ranks import (
    name_accelerator,
    rank,
    rng_state,
    seed_rank,
    set_rng_state,
    world_size,
)
from boig_core.training.reshard import pieces, refill, refuse_other_model
from boig_core.training.state_file import open_state, read_layout

_TAG = "state"
_LAYOUT = "layout.json"


@dataclass(frozen=True)
class StepInfo:
    """What one optimizer step did: ``loss`` is the mean over ranks, ``grad_norm`` the norm before
    clipping."""

    loss: float
    grad_norm: float
    lr: float


class Engine:
    """A model with its optimizer, spread over the ranks of the process group. Make it with
    `create`.

    Attributes:
        config: how it optimizes.
        settings: the same as DeepSpeed's config, as JSON holds it.
        steps_done: optimizer steps so far.
        leaving: whether the machine of any rank was about to go at the last step; the same on every
            rank.
    """

    def __init__(self, engine: Any, config: EngineConfig, settings: dict[str, Any]) -> None:
        self._engine = engine
        self.config = config
        self.settings = settings
        self.steps_done = 0
        self.leaving = False

    @classmethod
    def create(
        cls, model: nn.Module, config: EngineConfig, params: Iterable[nn.Parameter] | None = None
    ) -> Engine:
        """Wrap a model; all ranks must call it with equal weights (rank 0's are broadcast).

        Args:
            model: on any device; moved to this rank's.
            config: how to optimize.
            params: what to train; None: every parameter that requires a gradient (with LoRA: the
                adapter).
        """
        init_process_group()
        deepspeed = _import_deepspeed()
        trained = (
            list(params)
            if params is not None
            else [p for p in model.parameters() if p.requires_grad]
        )
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        # On the host torch's fused AdamW is as vectorized as DeepSpeed's own, which would have to
        # be compiled first.
        fused = config.offload != "none"
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=fused
        )
        settings = deepspeed_settings(config, sum(p.numel() for p in trained))
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )
        for state in optimizer.state.values():
            # Without ZeRO, DeepSpeed allocates bfloat16's states by a step of zero gradients, which
            # would count.
            state["step"].zero_()
        # By itself DeepSpeed runs whatever a checkpoint's pickles ask for.
        engine.checkpoint_engine.load = partial(open_state, classes=_state_classes())
        own = {"lr": config.lr, "betas": list(config.betas), "weight_decay": config.weight_decay}
        return cls(engine, config, {**settings, "optimizer": {"type": "AdamW", "params": own}})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass of the model."""
        return self._engine(*args, **kwargs)

    @property
    def module(self) -> nn.Module:
        """The model itself; with ZeRO 3 its parameters may be empty outside a forward pass."""
        module: nn.Module = self._engine.module
        return module

    @property
    def device(self) -> torch.device:
        """Where this rank's batches belong."""
        return torch.device(self._engine.device)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.config.lr_at(self.steps_done)

    def step(self, losses: Sequence[Callable[[], Tensor]]) -> StepInfo:
        """One optimizer step on the mean over ranks of the sum of this rank's micro-batch losses.

        Args:
            losses: one function per micro-batch, run in turn, each giving a scalar loss; equally
                many on every rank.

        Raises:
            TrainingDivergedError: a loss or a gradient is not finite on any rank; raised on all
                ranks before the weights change.
        """
        lr = self.lr
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros(3, dtype=torch.float64)
        # With the loss, since a sum of its own would cost each step a message.
        total[2] = float(noticed())
        for index, loss_of in enumerate(losses):
            self._engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
            loss = loss_of()
            self._engine.backward(loss)
            value = float(loss.detach())
            total += torch.tensor(
                [value if math.isfinite(value) else 0.0, float(not math.isfinite(value)), 0.0],
                dtype=torch.float64,
            )
        summed, broken, leaving = self.total(total).tolist()
        if broken:
            raise TrainingDivergedError(
                f"loss of step {self.steps_done}",
                f"is not finite in {broken:.0f} micro-batch(es)",
                "lower the learning rate",
            )
        norm = gradient_norm(self._engine)
        if not math.isfinite(norm):
            from deepspeed.utils import safe_get_full_grad

            raise diverged(self.steps_done, self.module, safe_get_full_grad)
        self._engine.step()
        self.steps_done += 1
        self.leaving = bool(leaving)
        return StepInfo(loss=summed / world_size(), grad_norm=norm, lr=lr)

    def total(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all ranks, on every rank."""
        summed = values.detach().to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def state_dict(
        self, *, trained_only: bool = False, everywhere: bool = True
    ) -> dict[str, Tensor]:
        """Copy of the weights on the CPU, gathered if they are partitioned; every rank must call
        it.

        Args:
            trained_only: leave out frozen parameters and buffers, as for a LoRA adapter.
            everywhere: on every rank, or on rank 0 alone (the others get nothing): a host with
                eight ranks need not hold eight copies.
        """
        wanted = everywhere or rank() == 0
        if self.config.zero_stage == 3:
            deepspeed = _import_deepspeed()
            weights = {}
            for name, param in self.module.named_parameters():
                if param.requires_grad or not trained_only:
                    with deepspeed.zero.GatheredParameters([param]):
                        if wanted:
                            weights[name] = param.detach().cpu().clone()
            if wanted and not trained_only:
                weights.update(
                    {
                        name: buffer.detach().cpu().clone()
                        for name, buffer in self.module.named_buffers()
                    }
                )
            return weights
        trained = {
            name for name, param in self.module.named_parameters() if param.requires_grad and wanted
        }
        return {
            k: v.detach().cpu().clone()
            for k, v in self.module.state_dict().items()
            if k in trained or (wanted and not trained_only)
        }

    def save(self, folder: Path) -> None:
        """Write this rank's part of weights, optimizer, step count and RNG state; every rank must
        call it.

        Ranks write files of different names, so that one folder may serve all of them or each may
        have its own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        frozen = any(not p.requires_grad for p in self.module.parameters())
        self._engine.save_checkpoint(
            str(folder),
            tag=_TAG,
            client_state={"steps_done": self.steps_done},
            save_latest=False,
            exclude_frozen_parameters=frozen and self.config.zero_stage > 0,
        )
        torch.save(rng_state(), folder / f"rng-{rank():05d}.pt")
        if rank() == 0:
            layout = {
                "ranks": world_size(),
                "zero_stage": self.config.zero_stage,
                "groups": self._groups(),
            }
            (folder / _LAYOUT).write_text(json.dumps(layout))

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote on all ranks; every rank must call it with the files of
        all ranks in ``folder``.

        On as many ranks and with the same ZeRO stage the training goes on bit for bit. Otherwise
        weights and moments are the same numbers, so that it goes on to rounding, and each rank is
        seeded by (step, rank), since the random states of the old ranks have no heirs.

        Raises:
            RecipeError: it is of another model, or only one of the two trainings uses ZeRO.
            CorruptError: a file holds more than a training's state, or is damaged; raised on every
                rank.
        """
        layout, stage = read_layout(folder / _LAYOUT), self.config.zero_stage
        refuse_other_model(layout["groups"], self._groups())
        if (layout["zero_stage"] == 0) != (stage == 0):
            raise RecipeError(
                f"zero_stage: {stage}",
                f"the checkpoint was written with {layout['zero_stage']}",
                "keep stage 0, or stages 1 to 3",
            )
        # Each rank all files, and without their tensors: a rank that refused one while it is read
        # below would leave the others waiting in a collective.
        for path in sorted(folder.rglob("*.pt")):
            open_state(path, _state_classes(), mmap=True)
        same = (layout["ranks"], layout["zero_stage"]) == (world_size(), stage)
        if same or stage == 0:
            frozen = any(not p.requires_grad for p in self.module.parameters())
            _, client = self._engine.load_checkpoint(
                str(folder), tag=_TAG, load_module_strict=not frozen, load_lr_scheduler_states=False
            )
        else:
            client = self._load_resharded(folder / _TAG, layout["groups"], layout["ranks"])
        self.steps_done = int(client["steps_done"])
        if same:
            set_rng_state(open_state(folder / f"rng-{rank():05d}.pt", ()))
        else:
            seed_rank(self.steps_done, rank())

    def _groups(self) -> list[dict[str, list[int]]]:
        """Shape by name of what is trained, in the order in which DeepSpeed flattens it."""
        if self.config.zero_stage == 0:
            return [
                {
                    name: list(param.shape)
                    for name, param in self.module.named_parameters()
                    if param.requires_grad
                }
            ]
        return [
            {name: list(shape) for name, shape in group.items()}
            for group in self._engine._get_zero_param_shapes()
        ]

    def _load_resharded(
        self, files: Path, groups: list[dict[str, list[int]]], ranks: int
    ) -> dict[str, Any]:
        """Weights, moments and buffers from the partitions of other ranks; returns what was saved
        beside them."""
        saved = []
        for index in range(ranks):
            (path,) = files.glob(f"*zero_pp_rank_{index}_mp_rank_00_optim_states.pt")
            state = open_state(path, _state_classes(), mmap=True)["optimizer_state_dict"]
            saved.append((state, list(pieces(state, groups, index, ranks))))
        optimizer = self._engine.optimizer
        if self.config.zero_stage == 3:
            optimizer.checkpoint_event_prologue()
        state = optimizer.state_dict()
        mine = list(pieces(state, self._groups(), rank(), world_size()))
        everyone: list[Any] = [None] * world_size()
        dist.all_gather_object(everyone, {piece.name: piece.size for piece in mine})
        refill(
            state,
            mine,
            {
                piece.name: sum(sizes.get(piece.name, 0) for sizes in everyone[: rank()])
                for piece in mine
            },
            saved,
        )
        optimizer.load_state_dict(
            [state] * world_size(), load_optimizer_states=True, load_from_fp32_weights=True
        )
        if self.config.zero_stage == 3:
            optimizer.checkpoint_event_epilogue()
        else:
            optimizer.update_lp_params()
        first = min(files.glob("*_model_states.pt"))
        client: dict[str, Any] = open_state(first, _state_classes(), mmap=True)
        for name, buffer in self.module.named_buffers():
            if name in client["module"]:
                buffer.copy_(client["module"][name])
        return client


def init_process_group() -> None:
    """Make sure that there is a process group: the given one, the launcher's (``torchrun``), or one
    of this process alone."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
        return
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _import_deepspeed() -> Any:
    name_accelerator()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed's autotuner, which nothing here uses, would import all of MLflow: 1.5 s of each
    # rank's start.
    with _without("mlflow"):
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Else the first training on a machine compiles a shared-memory all-reduce for a minute, and
    # needs a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
    )
    return deepspeed


def _state_classes() -> list[Any]:
    """What DeepSpeed puts into a checkpoint beside tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Imports see no module of this name, unless it is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
