"""Section ``ddpo``: alignment of the diffusion model by its reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from boig_core.config.monitors import Monitors
from boig_core.config.resources import Resources
from boig_core.config.section import Fraction, Section


class DDPO(Section):
    """Alignment of the diffusion model with its reward: each epoch samples images (rollouts),
    scores them and updates the model."""

    epochs: int = Field(30, ge=1)
    """Rounds of the alignment: each is one set of rollouts and its updates. More raise the reward
    further, and images drift from their prompts and grow alike."""
    prompts: int = Field(16, ge=1)
    """Prompts per epoch; they are texts of high-KPI training posts."""
    images_per_prompt: int = Field(8, ge=2)
    """Images per prompt and epoch. They are the group whose mean reward each of them is held
    against by ``grpo`` and ``awm``."""
    sampling_steps: int = Field(10, ge=2)
    """Denoising steps of an image; each costs a pass of the UNet."""
    guidance: float = Field(1.0, ge=1)
    """Strength of classifier-free guidance, in sampling and in scoring alike: no field mixes two,
    which would be off-policy. The lowest value switches it off; all others double the passes of the
    UNet."""
    eta: float = Field(1.0, gt=0, le=1)
    """DDIM's eta, the share of noise in the stochastic steps: a higher one tries out more. It
    cannot be 0, which would leave these steps without a log-probability."""
    window: int | None = Field(3, ge=1)
    """Denoising steps in a row that are stochastic and trained on, at a place that is drawn anew
    for each epoch; all others are deterministic. null: every step but the last, as DDPO was
    published."""
    window_span: Fraction = Field(0.6, gt=0, le=1)
    """First share of the denoising steps within which the window lies, and the timesteps of
    ``draws`` too: there the image is decided."""
    draws: int = Field(3, ge=1)
    """Timesteps, each with noise of its own, at which ``awm`` trains on each image. Other
    objectives do not read it."""
    timestep_fraction: Fraction = Field(1.0, gt=0, le=1)
    """Share of the stochastic steps, or of the draws, that an epoch trains on, drawn anew for each.
    Less means fewer backward passes and a noisier gradient."""
    shared_noise: bool = False
    """Start the images of one prompt and epoch from the same noise, so that they differ by the
    stochastic steps alone. ``awm`` excludes it."""
    objective: Literal["ddpo", "grpo", "awm"] = "grpo"
    """What a reward is held against: ``ddpo``, its prompt's rewards over epochs; ``grpo``, the
    other images of its prompt. ``awm`` is as ``grpo``, but its denoising is deterministic (``eta``
    and ``window`` have no say) and it trains on final images that are noised again, which needs
    fewer passes."""
    logprob: Literal["mean", "sum"] = "mean"
    """Log-probability of a step: the ``mean`` over latent dimensions, as in the reference code, or
    their ``sum``, the density itself, which needs a ``clip_ratio`` of its own."""
    clip_ratio: float = Field(1e-3, gt=0)
    """How far from 1 the ratio of new to old probability may go before a sample stops counting
    (PPO's clip); larger ones allow larger updates. With ``logprob: sum`` it must be given, such as
    0.2; ``awm`` takes ten times as much as the others."""
    clip_advantage: float = Field(5.0, gt=0)
    """Largest advantage, up or down: how many spreads a reward may count above or below what it is
    held against."""
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the ``anchor``, a penalty that keeps the model near it, in
    the units of ``logprob``; it costs one forward pass per sample. 0: it is not measured."""
    anchor: Literal["base", "ema"] = "base"
    """What ``kl`` holds the model to: ``base``, the model without its LoRA, or ``ema``, the moving
    average of its weights."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the trained weights, which is published in their place; it spans
    about 1 / (1 - ema) updates. null: the last weights are published."""
    recompute_logprobs: bool = False
    """Let the learner work out the old log-probabilities by itself before it updates, at one
    forward pass per sample. For rollouts in another precision or on other hardware: the start-up
    check then reports what differs, and does not stop."""
    ahead: bool = False
    """Sample the next epoch while the learner updates, with the weights from before that update;
    the loss makes up for it, at one forward pass per sample. It pays where rollout actors and
    learner have devices of their own."""
    inner_epochs: int = Field(1, ge=1)
    """Passes over an epoch's images before new ones are sampled. More use each image better, and
    move further from the model that made it."""
    updates: int = Field(2, ge=1)
    """Optimizer steps per pass; each takes an equal part of the epoch's images."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate of the alignment, the same from the first step to the last. Lower it where
    images drift from their prompts or grow alike."""
    lora_rank: int | None = Field(16, ge=1)
    """Rank of the LoRA, small matrices that are trained in place of the UNet's own weights. null:
    all weights of the UNet are trained, which takes more memory and cannot be anchored to the
    base."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of a step's gradient; a longer one is shortened to it."""
    chunk: int = Field(32, ge=1)
    """Images that an actor samples at a time, here and in ``evaluate_sd``: the fixed unit of work,
    so that the bits of a run do not depend on the number of actors. It divides the images of an
    epoch; lower it where memory is short."""
    micro_batch: int = Field(32, ge=1)
    """Images per forward pass and learner rank in the update. Lower it where memory is short: the
    result stays the same but for rounding."""
    rollout_actors: int = Field(2, ge=1)
    """Processes (Ray actors) that sample images, here and in ``evaluate_sd``. When some are lost, a
    run goes on with those that are left, and uses them again when they are back."""
    rollout_resources: Resources | None = None
    """What each of them asks of the cluster in ``ddpo``. null: the recipe's ``resources``, which
    ``evaluate_sd`` takes in any case."""
    workers: int = Field(1, ge=1)
    """Processes that update the model together: the learner's ranks."""
    worker_resources: Resources | None = None
    """What a rank asks of the cluster. null: the recipe's ``resources``. Several ranks need a GPU
    each, so ask for more than half of one."""
    placement_s: float = Field(60.0, ge=0)
    """Longest wait until all actors and ranks fit into the cluster at once, in seconds; then the
    stage fails. Raise it where nodes have to be added, or other jobs have to end first."""
    zero_stage: Literal[0, 1, 2] = 1
    """DeepSpeed's ZeRO stage, what the learner's ranks share among them: 0 nothing, 1 the
    optimizer's states, 2 gradients too. A higher one takes less memory and more communication."""
    checkpoint_every: int = Field(5, ge=1)
    """Epochs between two checkpoints, from which the alignment goes on after a failure."""
    probe_every: int | None = Field(5, ge=1)
    """Epochs between two probes, which score 64 images of the same held-out prompts and noise; the
    first looks at the base model. null: none, and the monitors ``drift`` and ``overoptimization``
    see nothing."""
    monitors: Monitors = Monitors()
    """What warns of an alignment that fails, or ends it."""

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
