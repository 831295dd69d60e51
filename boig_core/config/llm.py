"""Section ``llm``: BoigLLM, its training and how it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from boig_core.config.data import Kpi
from boig_core.config.section import Fraction, Names, Section

Pattern = Literal["describe", "aim_describe", "aim_predict", "predict"]
"""A pattern of behavior fine-tuning, 1 to 4 as the paper counts them."""


class LLM(Section):
    """BoigLLM, a causal language model that learns from posts how an image of a post looks at a
    KPI: its training (behavior fine-tuning) and how it answers."""

    base: Annotated[str | None, Names("model")] = None
    """Causal language model to start from: a hub id, a folder, a GGUF file or a store URI. null: a
    Llama of the sizes below, trained from scratch."""
    hidden: int = Field(128, ge=16)
    """Width of a model that is trained from scratch: numbers in each hidden state, a multiple of
    ``heads``. A ``base`` has its own."""
    layers: int = Field(3, ge=1)
    """Layers of a model that is trained from scratch. A ``base`` has its own."""
    heads: int = Field(4, ge=1)
    """Attention heads in each layer of a model that is trained from scratch. A ``base`` has its
    own."""
    vocab_size: int = Field(1024, ge=256)
    """Tokens of the tokenizer that is built from the training text for a model trained from
    scratch. Some 400 of them are there in any case. A ``base`` has its own."""
    context: int = Field(512, ge=64)
    """Longest sequence, prompt and answer together, in tokens. The answer has room for
    ``max_new_tokens``, at most half; a prompt that is longer than the rest loses keywords first,
    then text."""
    packing: bool = True
    """Lay several samples end to end in one row of ``context`` tokens, where none sees another:
    faster, with the same loss. Turn it off where the training says that the model cannot do it."""
    wording: Literal["compact", "full"] = "compact"
    """How prompts are worded: ``compact``, without an instruction, for small models that are
    fine-tuned; ``full``, with an instruction that lists the palette, for large ones."""
    source: Literal["tweets", "stock"] = "tweets"
    """What the posts are: ``tweets``, whose account is worth telling, or ``stock``, photographs
    with captions. The full wording alone reads it."""
    patterns: dict[Pattern, float] = Field({"describe": 1.0})
    """Tasks that a training mixes, by their weights. ``describe`` (or 1) goes from the KPI to the
    image's description, ``aim_describe`` (2) from an approximate KPI to the description and the
    exact KPI, ``aim_predict`` (3) from an approximate to the exact KPI, ``predict`` (4) from no KPI
    to the exact one."""
    kpi_noise: Fraction = Field(0.2, ge=0, lt=1)
    """Largest error of the approximate KPIs in ``aim_describe`` and ``aim_predict``, as a share of
    the exact value. 0: they are exact."""
    more_kpis: tuple[Kpi, ...] = ()
    """Those of ``data.more_kpis`` that prompts and answers may name beside ``data.kpi``. Rewards
    ask by ``data.kpi`` alone; empty: no other KPI is named."""
    steps: int = Field(300, ge=1)
    """Optimizer steps of each model that is trained here. Raise it while the validation loss still
    falls at the end."""
    batch: int = Field(32, ge=1)
    """Samples per optimizer step, over all ``workers`` of a model; a multiple of their number."""
    micro_batch: int = Field(16, ge=1)
    """Samples per forward pass and worker; gradients are added up until a step has ``batch``. Lower
    it where memory is short: the result stays the same but for rounding."""
    lora_rank: int | None = Field(None, ge=1)
    """Rank of a LoRA, small matrices that are trained in place of the model's own weights, on every
    linear layer and every expert but the output head (in a state-space layer, on what leads into it
    alone); the published model has it merged. null: all weights are trained."""
    lora_alpha: float = Field(32.0, gt=0)
    """Strength of the LoRA: what it adds is multiplied by alpha / rank. Read with a ``lora_rank``
    alone."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate. Lower it where the loss jumps or does not fall, and for a large
    ``base``."""
    warmup: Fraction = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak; a cosine leads down
    afterwards. 0: it begins at the peak."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's weight decay, which pulls weights (not norms and biases) towards 0 at each step. 0:
    none."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of a step's gradient; a longer one is shortened to it, so that no odd batch
    throws the training off."""
    workers: int = Field(2, ge=1)
    """Processes (Ray Train workers) that train one model together; each asks for ``resources``."""
    at_once: int = Field(1, ge=1)
    """Models trained side by side, each by ``workers`` processes of its own. There are at least two
    to train: BoigLLM and its twin, which sees no KPI."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's ZeRO stage, what the workers of a model share among them: 0 nothing, 1 the
    optimizer's states, 2 gradients too, 3 weights too. A higher one takes less memory and more
    communication."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in the hosts' memory in place of the GPUs': nothing, the ``optimizer``'s states
    (ZeRO 1 to 3), or ``all``, the weights too (ZeRO 3). Slower, for a model that does not fit
    otherwise."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass and do not keep them: less memory for a third
    more computation."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the training. ``bfloat16`` takes half the memory for weights and activations;
    the optimizer keeps float32 weights of its own."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints, from which a training goes on after a failure. The model is
    validated at each, and the best one is published."""
    patience: int | None = Field(None, ge=1)
    """Validations in a row without a new best after which a training stops early. null: it never
    does."""
    max_new_tokens: int = Field(256, ge=16)
    """Longest answer, in tokens. One that is cut off there cannot be read: raise it where answers
    fail to parse."""
    generate_batch: int = Field(64, ge=1)
    """Prompts that are answered at a time. Lower it where memory is short."""
    constrained: bool = True
    """Hold answers to a grammar, so that every one that ends can be read. Without it a small or new
    model may write what cannot be."""
    unconstrained_posts: int = Field(20, ge=0)
    """Test posts per KPI bucket that BoigLLM also answers without the grammar, to report how often
    it keeps the form by itself. 0: none."""
    samples: int = Field(1, ge=1)
    """Answers that are drawn per prompt; the prediction is their consensus, which pays from some
    tens of answers on. A single one is not drawn: it is the likeliest."""
    eval_posts: int = Field(200, ge=1)
    """Largest number of test posts per KPI bucket on which descriptions are measured. More give
    narrower intervals and take longer."""
    predictor: Literal["none", "text", "head"] = "none"
    """Also train an engagement predictor, unless ``none``: it reads a post with the description of
    an image and answers with the percentile of the KPI within the account, 0 to 100. It says so as
    ``text``, or by a regression ``head`` beside it; the reward ``engagement`` needs one."""
    predictor_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the predictor. null: ``lr``; a ``head`` needs a lower one where the
    model is trained from scratch."""

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
