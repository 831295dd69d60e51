"""Section ``llm``: BoigLLM, its training and how it answers."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from boig_core.config.data import Kpi
from boig_core.config.section import Fraction, Section

Pattern = Literal["describe", "aim_describe", "aim_predict", "predict"]
"""A pattern of behavior fine-tuning, 1 to 4 as the paper counts them."""


class LLM(Section):
    """BoigLLM: behavior fine-tuning of a causal language model."""

    base: str | None = None
    """A causal LM to start from: a hub id, a folder or a store URI; null: a Llama with the sizes
    below, trained from scratch."""
    hidden: int = Field(128, ge=16)
    """Width, when trained from scratch."""
    layers: int = Field(3, ge=1)
    """Layers, when trained from scratch."""
    heads: int = Field(4, ge=1)
    """Attention heads, when trained from scratch."""
    vocab_size: int = Field(1024, ge=256)
    """Size of the tokenizer that is built from the training text, when trained from scratch."""
    context: int = Field(512, ge=64)
    """Longest sequence, in tokens; a prompt has room for what ``max_new_tokens``, or half of the
    context, leaves of it."""
    packing: bool = True
    """Lay samples end to end in rows of ``context`` tokens, none of which sees another; the loss is
    the same as without."""
    wording: Literal["compact", "full"] = "compact"
    """How prompts are worded: without an instruction, for small models that are fine-tuned; or with
    one that lists the palette."""
    source: Literal["tweets", "stock"] = "tweets"
    """What the posts are: the full wording tells the account of tweets."""
    patterns: dict[Pattern, float] = Field({"describe": 1.0})
    """Weights of the patterns that a training mixes, by name or by number (1 to 4)."""
    kpi_noise: Fraction = Field(0.2, ge=0, lt=1)
    """Largest relative error of the approximate KPIs of the patterns ``aim_describe`` and
    ``aim_predict``."""
    more_kpis: tuple[Kpi, ...] = ()
    """Those of ``data.more_kpis`` that prompts and answers may name beside ``data.kpi``; rewards
    ask by ``data.kpi`` alone."""
    steps: int = Field(300, ge=1)
    """Optimizer steps."""
    batch: int = Field(32, ge=1)
    """Samples per optimizer step, over all workers."""
    micro_batch: int = Field(16, ge=1)
    """Samples per forward pass and worker; gradients are accumulated until a step has ``batch``."""
    lora_rank: int | None = Field(None, ge=1)
    """LoRA rank, on every linear layer but the output head; null: all weights are trained. The
    published model has the LoRA merged."""
    lora_alpha: float = Field(32.0, gt=0)
    """LoRA alpha: the adapter is scaled by alpha / rank."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    warmup: Fraction = Field(0.03, ge=0, lt=1)
    """Share of the steps that warm up; a cosine follows."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW weight decay."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    workers: int = Field(2, ge=1)
    """Ray Train workers per model, one process each."""
    at_once: int = Field(1, ge=1)
    """Models trained side by side, each by ``workers`` processes of its own. There are at least two
    to train: BoigLLM and its no-KPI twin."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in the hosts' memory instead of the GPUs': the optimizer's states (ZeRO 1 to 3),
    or the weights too (ZeRO 3)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for a third more computation."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the training."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints, and between validations: the published model is the best of
    them."""
    patience: int | None = Field(None, ge=1)
    """Training stops after this many validations in a row without a new best; null: it never stops
    early."""
    max_new_tokens: int = Field(256, ge=16)
    """Longest answer, in tokens."""
    generate_batch: int = Field(64, ge=1)
    """Answers generated per batch."""
    constrained: bool = True
    """Write answers under the grammar of the ANSWER shape; without it a small or new model may
    write what cannot be parsed."""
    unconstrained_posts: int = Field(20, ge=0)
    """Test posts per bucket that BoigLLM also answers without the grammar, to report the parse rate
    that it has by itself; 0: it answers none."""
    samples: int = Field(1, ge=1)
    """Answers sampled per prompt; their consensus is the prediction, which pays from some tens of
    answers on. 1: the likeliest answer, without sampling."""
    eval_posts: int = Field(200, ge=1)
    """Test posts per bucket on which the description metrics are measured."""
    predictor: Literal["none", "text", "head"] = "none"
    """Also train an engagement predictor by this section's other settings: it reads a post with its
    verbalized image, and answers with the KPI within the account, 0 to 100, as ``text``, or by a
    regression ``head`` beside it; the reward ``engagement`` needs one."""
    predictor_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the predictor; null: ``lr``. A head's squared error needs a lower rate
    where the model is trained from scratch."""

    @field_validator("patterns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Patterns may be numbered as in the paper, in YAML and, as keys are there, in JSON."""
        if not isinstance(value, dict):
            return value
        names = {str(number): name for number, name in enumerate(get_args(Pattern), start=1)}
        return {names.get(str(key), key): weight for key, weight in value.items()}

    @field_validator("patterns")
    @classmethod
    def _weights(cls, value: dict[Pattern, float]) -> dict[Pattern, float]:
        if not value or min(value.values()) < 0 or max(value.values()) <= 0:
            raise ValueError("must hold weights of at least 0, one of them above 0")
        return value

    @model_validator(mode="after")
    def _check(self) -> LLM:
        if self.zero_stage < (least := {"none": 0, "optimizer": 1, "all": 3}[self.offload]):
            raise ValueError(
                f"offload {self.offload} needs a zero_stage of at least {least}, not {self.zero_stage}"
            )
        return self
