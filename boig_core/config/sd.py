"""Section ``sd``: the diffusion model and its high-KPI fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from boig_core.config.section import Section


class SD(Section):
    """The diffusion model and its high-KPI fine-tuning baseline."""

    base: str = "package:tiny-sd"
    """Stable Diffusion 1.x, 2.x or XL to start from: a hub id, a folder, or ``package:NAME``."""
    resolution: int = Field(32, ge=16)
    """Side of the generated images, in pixels: that of the base model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of UNet and text encoders in fine-tuning, alignment and evaluation; a LoRA and the
    autoencoder are float32 in any case. Alignment in bfloat16 needs a clip_ratio of 1e-3 or so: the
    start-up check asks for ratios within a tenth of it."""
    steps: int = Field(300, ge=1)
    """Optimizer steps of the high-KPI fine-tuning."""
    batch: int = Field(32, ge=1)
    """Images per optimizer step, over all workers."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate of the high-KPI fine-tuning."""
    min_snr: float | None = Field(5.0, gt=0)
    """Where min-SNR weighting of the high-KPI fine-tuning cuts (gamma of arXiv 2303.09556):
    timesteps with less noise weigh no more in the predicted image than one at this signal-to-noise
    ratio; null: an error of the prediction weighs the same at each timestep."""
    lora_rank: int | None = Field(None, ge=1)
    """LoRA rank of the high-KPI fine-tuning; null: all weights of the UNet are trained."""
    workers: int = Field(2, ge=1)
    """Ray Train workers, one process each."""
    zero_stage: Literal[0, 1, 2] = 2
    """DeepSpeed ZeRO stage."""
    gradient_checkpointing: bool = False
    """Recompute the UNet's activations in the backward pass, in fine-tuning and alignment: less
    memory for a third more computation."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
