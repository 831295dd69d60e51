"""The gradients of a step, between the last backward pass and the optimizer's step: how large they
are and whether they may be used, the same for every ZeRO stage.

DeepSpeed knows their norm after the step alone, and without ZeRO not at all. Leaves out: clipping,
which is DeepSpeed's (see `engine`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from boig_core.errors import TrainingDivergedError


def gradient_norm(engine: Any) -> float:
    """Norm of a DeepSpeed engine's gradients, averaged over the ranks and not yet clipped; infinite
    where one is not finite. The same on every rank; every rank must call it."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        norms = optimizer._get_norm_groups()
    elif stage:
        norms = [optimizer.scaled_global_norm()]
    else:
        # Each rank has all of them. In float32, since the square of a norm rounds in bfloat16.
        norms = [
            torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            for parameter in engine.module.parameters()
            if parameter.grad is not None
        ]
        norms = [torch.linalg.vector_norm(torch.stack(norms))] if norms else []
    values = [float(norm) for norm in norms]
    # DeepSpeed writes -1 for the norm of a group that is not finite.
    usable = all(math.isfinite(value) and value >= 0 for value in values)
    return math.hypot(*values) if usable else math.inf


def diverged(
    step: int, module: nn.Module, full_gradient: Callable[[nn.Parameter], Tensor | None]
) -> TrainingDivergedError:
    """The error of a step whose gradient norm is not finite; every rank must call it.

    Args:
        step: counted from 0.
        module: whose parameters are trained.
        full_gradient: of a parameter, from the parts of all ranks.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    # To the end, though the first is named: a rank that left early would leave the others waiting.
    broken = [
        name
        for name, parameter in trained
        if (gradient := full_gradient(parameter)) is not None and not gradient.isfinite().all()
    ]
    where = f"of {broken[0]} is not finite" if broken else "norm overflows"
    more = f", nor are those of {len(broken) - 1} more parameters" if len(broken) > 1 else ""
    return TrainingDivergedError(
        f"step {step}", f"the gradient {where}{more}", "lower the learning rate"
    )
