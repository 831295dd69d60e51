"""Section ``sd``: the diffusion model and its high-KPI fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from boig_core.config.section import Names, Section


class SD(Section):
    """The diffusion model that is aligned, and the baseline beside it: the same model fine-tuned on
    images of high-KPI posts alone."""

    base: Annotated[str, Names("model")] = "package:tiny-sd"
    """Stable Diffusion 1.x, 2.x or XL to start from: a hub id, a folder, a ``.safetensors`` file of
    a whole model, a store URI, or ``package:NAME`` for one that ships with boig. A single file
    takes its settings from the diffusers folder that it stands in, else from the hub's cache."""
    resolution: int = Field(32, ge=16)
    """Side of the generated images, in pixels. It must be that of the base model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of UNet and text encoders in fine-tuning, alignment and evaluation; a LoRA and the
    autoencoder are float32 in any case. Alignment in ``bfloat16`` needs a ``ddpo.clip_ratio`` of
    1e-3 or so: the start-up check asks for ratios within a tenth of it."""
    steps: int = Field(300, ge=1)
    """Optimizer steps of the high-KPI fine-tuning."""
    batch: int = Field(32, ge=1)
    """Images per optimizer step of the high-KPI fine-tuning, over all ``workers``; a multiple of
    their number."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate of the high-KPI fine-tuning. Lower it where the loss jumps or images
    break."""
    min_snr: float | None = Field(5.0, gt=0)
    """Signal-to-noise ratio from which on timesteps with less noise weigh no more in the high-KPI
    fine-tuning, measured in the predicted image (min-SNR weighting, gamma of arXiv 2303.09556).
    Where the base's schedule ends in pure noise (zero terminal SNR), a ratio below 1 counts as 1:
    else the last timesteps, which decide the brightness of images, would weigh nothing. null: an
    error of the prediction weighs the same at each timestep."""
    lora_rank: int | None = Field(None, ge=1)
    """Rank of a LoRA, small matrices that the high-KPI fine-tuning trains in place of the UNet's
    own weights. null: all weights of the UNet are trained."""
    workers: int = Field(2, ge=1)
    """Processes (Ray Train workers) that share the high-KPI fine-tuning; each asks for
    ``resources``."""
    zero_stage: Literal[0, 1, 2] = 2
    """DeepSpeed's ZeRO stage of the high-KPI fine-tuning, what its workers share among them: 0
    nothing, 1 the optimizer's states, 2 gradients too. A higher one takes less memory and more
    communication."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations again in the backward pass and do not keep them, in
    fine-tuning and alignment: less memory for a third more computation."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints of the high-KPI fine-tuning, from which it goes on after a
    failure."""
