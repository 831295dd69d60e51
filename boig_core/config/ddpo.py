"""Section ``ddpo``: alignment of the diffusion model by its reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from boig_core.config.monitors import Monitors
from boig_core.config.resources import Resources
from boig_core.config.section import Fraction, Section


class DDPO(Section):
    """Alignment of the diffusion model by its reward."""

    epochs: int = Field(30, ge=1)
    """Epochs: one round of rollouts and its updates."""
    prompts: int = Field(16, ge=1)
    """Prompts per epoch."""
    images_per_prompt: int = Field(8, ge=2)
    """Images per prompt and epoch: the group whose mean is the baseline of its rewards."""
    sampling_steps: int = Field(10, ge=2)
    """Denoising steps."""
    guidance: float = Field(1.0, ge=1)
    """Classifier-free guidance, in sampling and in scoring alike: no field mixes two, which would
    be off-policy."""
    eta: float = Field(1.0, gt=0, le=1)
    """DDIM's eta on the stochastic steps; 0 would leave them without a log-probability."""
    window: int | None = Field(3, ge=1)
    """Steps of the random window that is stochastic and trained on; null: every step (DDPO as
    published)."""
    window_span: Fraction = Field(0.6, gt=0, le=1)
    """The window, and the timesteps of the draws, lie within this first share of the steps: where
    the image is decided."""
    draws: int = Field(3, ge=1)
    """Timesteps, each with its noise, at which ``awm`` matches each image."""
    timestep_fraction: Fraction = Field(1.0, gt=0, le=1)
    """Share of the stochastic steps, or draws, that an epoch trains on, drawn anew for each: fewer
    backward passes, more noise in the gradient."""
    shared_noise: bool = False
    """Images of one prompt and epoch start from the same noise, so that they differ by the
    stochastic steps alone."""
    objective: Literal["ddpo", "grpo", "awm"] = "grpo"
    """``ddpo``: per-prompt statistics over epochs; ``grpo``: the group's mean over the batch's
    spread; ``awm``: the same advantages on the forward process: rollouts are deterministic (``eta``
    and ``window`` have no say), their final latents are noised again, and the ratio is that of the
    matching losses, before and now, on the same draws."""
    logprob: Literal["mean", "sum"] = "mean"
    """Log-probability of a step: ``mean`` over latent dimensions, as the reference code; ``sum``:
    the density itself."""
    clip_ratio: float = Field(1e-3, gt=0)
    """PPO clip of the importance ratio under this ``logprob``: with ``sum`` log-ratios grow by the
    number of latent dimensions, so it must be given. Matching losses move further than
    log-probabilities: ``awm`` takes ten times as much."""
    clip_advantage: float = Field(5.0, gt=0)
    """Largest absolute advantage."""
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the ``anchor``, in the units of ``logprob``; 0: it is not
    measured. Costs one forward pass per sample."""
    anchor: Literal["base", "ema"] = "base"
    """What ``kl`` holds the policy to: the base model, which is the policy with its LoRA switched
    off, or the moving average of ``ema``."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the trained weights, which is published in their place: it spans
    about 1 / (1 - ema) updates; null: the last weights are published."""
    recompute_logprobs: bool = False
    """The learner works out the old log-probabilities by itself before it updates: for rollouts in
    another dtype, with other kernels or on other hardware. The start-up check then reports what
    differs, and does not stop. Costs one forward pass per sample."""
    ahead: bool = False
    """Rollouts of the next epoch are sampled while the learner updates, with the weights from
    before the update. The loss is weighted for rollouts that are stale by then; that costs one
    forward pass per sample, and pays where rollout actors and learner have devices of their own."""
    inner_epochs: int = Field(1, ge=1)
    """Passes over an epoch's trajectories."""
    updates: int = Field(2, ge=1)
    """Optimizer steps per pass."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate."""
    lora_rank: int | None = Field(16, ge=1)
    """LoRA rank; null: all weights of the UNet are trained."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    chunk: int = Field(32, ge=1)
    """Images per rollout chunk, the fixed unit of work: the bits of a run do not depend on the
    number of actors."""
    micro_batch: int = Field(32, ge=1)
    """Samples per forward pass and worker in the update."""
    rollout_actors: int = Field(2, ge=1)
    """Ray actors that sample images. Once all have started, a run goes on with those that are left
    when some are lost, and uses them again when they are back."""
    rollout_resources: Resources | None = None
    """What such an actor asks for; null: the recipe's ``resources``."""
    workers: int = Field(1, ge=1)
    """Learner ranks."""
    worker_resources: Resources | None = None
    """What a rank asks for; null: the recipe's ``resources``. Ranks need a GPU each, so ask for
    more than half of one."""
    placement_s: float = Field(60.0, ge=0)
    """Longest wait until all actors and ranks fit at once, in seconds: more where nodes have to be
    added, or other jobs have to end first."""
    zero_stage: Literal[0, 1, 2] = 1
    """DeepSpeed ZeRO stage of the learner."""
    checkpoint_every: int = Field(5, ge=1)
    """Epochs between checkpoints."""
    probe_every: int | None = Field(5, ge=1)
    """Epochs between two probes: 64 images of the same held-out prompts and noise are scored, first
    of all those of the base model; null: never."""
    monitors: Monitors = Monitors()
    """What warns of, or ends, a training that fails."""

    @property
    def forward_process(self) -> bool:
        """Whether the objective trains on final latents that are noised again, not on the steps of
        the denoising."""
        return self.objective == "awm"

    @property
    def trained_steps(self) -> int:
        """Stochastic steps, or draws, of an epoch, of which `timestep_fraction` are trained on."""
        if self.forward_process:
            return self.draws
        # The last step is left out: it may have no noise, and then it has no log-probability.
        return self.sampling_steps - 1 if self.window is None else self.window

    @model_validator(mode="after")
    def _check(self) -> DDPO:
        self._check_anchor()
        if self.ahead and self.monitors.keeps_best and self.probe_every is None:
            raise ValueError(
                "ahead and a monitor's keep_best need a probe: set probe_every, since an epoch's rewards are of older weights"
            )
        if self.forward_process and self.guidance != 1:
            raise ValueError(
                f"objective awm needs guidance 1, not {self.guidance:g}: it matches the model without guidance"
            )
        if self.forward_process and self.shared_noise:
            raise ValueError(
                "objective awm excludes shared_noise: without noise in the steps all images of a prompt would be the same"
            )
        images = self.prompts * self.images_per_prompt
        if images % self.chunk:
            raise ValueError(
                f"chunk {self.chunk} must divide prompts x images_per_prompt = {images}"
            )
        if images % (self.updates * self.workers):
            raise ValueError(
                f"updates x workers = {self.updates * self.workers} must divide prompts x images_per_prompt = {images}"
            )
        if self.window is not None and self.window >= self.sampling_steps:
            raise ValueError(
                f"window {self.window} must be below sampling_steps = {self.sampling_steps}: the last step has no noise"
            )
        if self.logprob == "sum" and "clip_ratio" not in self.model_fields_set:
            raise ValueError(
                "logprob sum needs a clip_ratio of its own, such as 0.2: the default is for the mean over latent dimensions"
            )
        # At least one step, since a small share of few steps would leave room for none.
        if self.window is not None and self.window > max(
            1, int(self.window_span * self.sampling_steps)
        ):
            raise ValueError(
                f"window {self.window} must fit into window_span x sampling_steps = {int(self.window_span * self.sampling_steps)} steps"
            )
        return self

    def _check_anchor(self) -> None:
        if self.kl and self.anchor == "base" and self.lora_rank is None:
            raise ValueError(
                f"kl {self.kl:g} from the base needs a LoRA that can be switched off: set lora_rank, or anchor ema"
            )
        if self.anchor == "ema" and (self.ema is None or not self.kl):
            raise ValueError(
                "anchor ema needs ema, the decay of its moving average, and a kl above 0"
            )
