"""What an engine is built with, and what DeepSpeed is told.

Leaves out: the engine (see `engine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

Offload = Literal["none", "optimizer", "all"]
_LARGEST_BUCKET = 500_000_000


@dataclass(frozen=True)
class EngineConfig:
    """How to optimize.

    Attributes:
        lr: peak learning rate.
        steps: optimizer steps of the whole training: the length of the schedule.
        warmup: share of the steps over which the rate rises linearly.
        schedule: what follows the warm-up: ``cosine`` down to a tenth of the peak, or ``constant``.
        betas: of AdamW.
        weight_decay: of AdamW, on parameters with at least two dimensions (not on norms and
            biases).
        grad_clip: largest gradient norm.
        zero_stage: DeepSpeed ZeRO stage.
        dtype: precision of weights and activations; the optimizer always keeps float32 master
            weights.
        offload: what rests in the host's memory: nothing, the ``optimizer`` (its states and its
            step), or ``all`` (weights too; ZeRO 3).
    """

    lr: float
    steps: int
    warmup: float = 0.03
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    zero_stage: Literal[0, 1, 2, 3] = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    offload: Offload = "none"

    def lr_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""
        rising = math.ceil(self.warmup * self.steps)
        # Counted so that the first step is not lost on a rate of 0, and step `rising` has the peak.
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return self.lr
        done = min(1.0, (step - rising) / max(1, self.steps - rising))
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def deepspeed_settings(config: EngineConfig, trained: int) -> dict[str, Any]:
    """The DeepSpeed config of a training of so many parameters; the optimizer and the learning rate
    are the engine's own."""
    cuda = torch.cuda.is_available()
    host = {"device": "cpu", "pin_memory": cuda}
    bucket = min(_LARGEST_BUCKET, 2 * (trained // 2 + 1))  # must be even
    return {
        "train_micro_batch_size_per_gpu": 1,  # informative only: batches are the caller's
        "gradient_accumulation_steps": 1,  # boundaries are set by hand in `step`
        "gradient_clipping": config.grad_clip,
        "zero_allow_untested_optimizer": True,
        # Else DeepSpeed refuses to offload any Adam but its own, which has to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        # Longer than any training: DeepSpeed prints no progress of its own.
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": config.zero_stage,
            # DeepSpeed allocates buckets of this size in full: its default of 2 GB would dwarf a
            # small model.
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": cuda,
            # With ZeRO 3 DeepSpeed would replace torch's linear in the whole process for good; its
            # own rounds otherwise, in rollouts too.
            "memory_efficient_linear": False,
            **({"offload_optimizer": host} if config.offload != "none" else {}),
            **({"offload_param": host} if config.offload == "all" else {}),
        },
    }
