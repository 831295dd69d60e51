"""The Recipe: everything that decides what a run computes, as frozen models that refuse unknown
keys.

A recipe file holds only what differs from the defaults below, or from the shipped recipe that it
names under ``extends``; `load_recipe` resolves it, and the resolved recipe is written beside each
run. What decides only *where* things run (store, cluster address, credentials) is not a recipe's:
it comes from the environment. Leaves out: reading data, and any import heavier than pydantic and
YAML.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from boig_core.errors import RecipeError

Fraction = float


Column = Literal[
    "id", "account", "company", "timestamp", "text", "image", "images", "keywords", "licence"
]
"""A column of a post, beside its KPIs."""
Kpi = Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)?$")]
"""A numeric column, or the rate of two: ``clicks/impressions``."""
ImageFormat = Literal["original", "png", "jpeg", "webp"]
"""How a dataset keeps images."""
Pattern = Literal["describe", "aim_describe", "aim_predict", "predict"]
"""A pattern of behavior fine-tuning, 1 to 4 as the paper counts them."""
RewardName = Literal["contrast", "mean_logprob", "dsg", "attribute_similarity", "engagement"]
"""A formulation of the reward."""
Rewrite = Literal["retrieval", "boigllm"]
"""A way to rewrite prompts: by a high-KPI post's words, or by BoigLLM's own description."""
Action = Literal["off", "warn", "stop", "keep_best"]
"""What a tripped monitor does: nothing; one line in the log; end the training with what it has; end
it with the best epoch's policy."""
Monitor = Literal["plateau", "fall", "collapse", "drift", "overoptimization"]
"""A sign of a training that fails."""
SplitBy = Literal["post", "account", "time"]
"""What never crosses splits."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class Data(_Section):
    """Which posts count, how KPIs become buckets, how posts are split."""

    name: str = Field("posts", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the dataset in the store: ``datasets/NAME``."""
    kpi: Kpi = "likes"
    """Numeric column of the posts that the models aim at, or the rate of two:
    ``clicks/impressions``."""
    more_kpis: tuple[Kpi, ...] = ()
    """Further KPIs that are kept beside it, with percentile and bucket of their own; a post may
    lack them."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """What the export calls our columns, where it calls them otherwise; dots reach into nested
    objects: ``account: user.name``, and a value after ``=`` is the same for every row:
    ``account: =stock``."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows count only when these columns hold one of these values:
    ``category: [product, service]``."""
    min_text: int = Field(50, ge=0)
    """Shortest post text, in characters."""
    max_text: int | None = Field(None, ge=1)
    """Longest post text, in characters; null: no limit."""
    mask_links: bool = True
    """Write ``<hyperlink>`` in place of links."""
    min_posts: int = Field(1, ge=1)
    """Accounts with fewer posts are left out (the paper: 1000)."""
    max_posts: int = Field(2000, ge=1)
    """At most this many posts are sampled from an account."""
    since: str | None = None
    """First day that counts, as ``YYYY-MM-DD``."""
    until: str | None = None
    """First day that no longer counts, as ``YYYY-MM-DD``."""
    late_days: float = Field(2.0, ge=0)
    """A scheduled ingestion reads posts again that are at most so many days older than the newest
    it holds: some arrive late, and counts move."""
    percentiles: tuple[float, float] = (60.0, 90.0)
    """Per-account percentiles that part low from medium and medium from high."""
    floors: tuple[float, float, float] = (20, 30, 40)
    """A post enters low, medium, high only when its KPI is above this; further KPIs have no
    floors."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares in train, validation, test of the posts that are in no split of their own."""
    split_by: SplitBy = "post"
    """What never crosses splits: a ``post`` with all its images, an ``account``, or a moment of
    ``time`` (the earliest posts train)."""
    held_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """A domain kept apart: posts whose columns hold one of these values form the split
    ``held_out``, which no training reads."""
    judge: Fraction = Field(0.0, ge=0, lt=1)
    """Share of posts kept apart as the split ``judge``, which only the engagement predictor of
    ``evaluation.judge`` learns from."""
    near_duplicates: int | None = Field(3, ge=0, le=7)
    """Images whose perceptual hashes differ in at most this many of 64 bits stay in one split;
    null: only identical images do."""
    negatives: Fraction = Field(0.0, ge=0, le=1)
    """Share of the high and medium training samples that come again with an unrelated image and a
    low KPI (the paper: 0.25)."""
    negative_kpi: tuple[float, float] = (5.0, 15.0)
    """The KPI of a negative is drawn evenly from this range."""
    image_format: ImageFormat = "original"
    """How images are kept: ``original`` bytes where they are plain (else a fine JPEG or PNG), or
    every one encoded anew."""
    image_quality: int = Field(90, ge=1, le=100)
    """Quality of images that are encoded anew as JPEG or WebP."""
    shard_mb: float = Field(64.0, gt=0)
    """Target size of an image shard, in MiB."""
    fetch_concurrency: int = Field(16, ge=1)
    """Images fetched at a time by one worker."""
    fetch_per_host: int = Field(8, ge=1)
    """Requests that one worker has open at one host."""
    user_agent: str = Field(
        "boig/0.1 (fetches the images of a posts export)", min_length=1, pattern=r"^[\x20-\x7e]+$"
    )
    """How requests name themselves: a host that wants to complain, or to opt out by name, must be
    able to."""
    fetch_timeout_s: float = Field(30.0, gt=0)
    """Longest time for one image, in seconds."""
    max_image_mb: float = Field(20.0, gt=0)
    """Larger files are rejected, in MiB."""
    max_pixels: int = Field(50_000_000, gt=0)
    """Images with more pixels are rejected (decompression bombs)."""
    tables_mb: int = Field(128, ge=64)
    """What the tables of an ingestion take of memory before they go to disk, in MiB: enough for
    some ten million posts."""
    allow_private_hosts: bool = False
    """Let image URLs point at loopback and private addresses (tests and intranets)."""

    @field_validator("since", "until", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        """YAML reads a bare 2020-01-31 as a date."""
        try:
            return value if value is None else date.fromisoformat(str(value)).isoformat()
        except ValueError as exc:
            raise ValueError("must be a day such as 2020-01-31") from exc

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.since and self.until and self.since >= self.until:
            raise ValueError(f"since {self.since} must be before until {self.until}")
        if abs(sum(self.split) - 1.0) > 1e-9 or min(self.split) <= 0:
            raise ValueError(f"split {self.split} must be three positive shares that sum to 1")
        if not 0 <= self.negative_kpi[0] <= self.negative_kpi[1]:
            raise ValueError(
                f"negative_kpi {self.negative_kpi} must be a range of numbers of at least 0"
            )
        if len({self.kpi, *self.more_kpis}) != 1 + len(self.more_kpis):
            raise ValueError(
                f"more_kpis {self.more_kpis} must differ from each other and from kpi {self.kpi}"
            )
        low, high = self.percentiles
        if not 0 < low < high < 100:
            raise ValueError(f"percentiles {self.percentiles} must rise within (0, 100)")
        return self


class Perception(_Section):
    """How an image is verbalized: colors and tones are model-free; objects, captions and keywords
    come from the models named here."""

    side: int = Field(32, ge=16)
    """Images are measured at this side in pixels, real and generated ones alike, so that both are
    seen with the same eyes."""
    max_colors: int = Field(5, ge=1, le=8)
    """At most this many palette names per image."""
    min_coverage: float = Field(0.04, ge=0, lt=1)
    """Colors that cover less are folded into the others."""
    detector: Literal["salient", "grounding_dino", "owlv2"] = "salient"
    """What finds objects: regions that stand out, named by the CLIP (no detector needed); or a
    model for photographs."""
    detector_model: str | None = None
    """The Grounding DINO or OWLv2: a hub id or a folder."""
    box_threshold: float = Field(0.3, ge=0, lt=1)
    """Boxes of that model with a lower score are left out; scores of OWLv2 run lower, 0.1 is usual
    for it."""
    vocabulary: Literal["kinds", "keywords"] = "kinds"
    """What that model looks for: the ``kinds``, or each image's own keywords."""
    clip: str = "package:clip"
    """CLIP that names salient regions and finds tags, and by which the alignment's probe sees
    drift: a hub id, a folder, or ``package:NAME``."""
    kinds: tuple[str, ...] = ()
    """Object names to choose among, the same for every image; empty: every salient region is
    ``unknown``."""
    name_threshold: float = Field(0.5, ge=0, le=1)
    """A region whose best name has a lower probability is called ``unknown``."""
    min_area: float = Field(0.01, gt=0, lt=1)
    """Smallest region that counts as an object, as a share of the image."""
    max_objects: int = Field(3, ge=1)
    """At most this many objects per image, the largest first."""
    captioner: Literal["none", "blip", "llava"] = "none"
    """What writes a caption of each image: a BLIP, or a model of LLaVA's class."""
    caption_model: str | None = None
    """The captioner's model: a hub id or a folder."""
    caption_prompt: str | None = Field(None, min_length=1)
    """What a LLaVA is asked, or how a BLIP's captions begin; null: LLaVA is asked for one sentence,
    BLIP begins freely."""
    caption_tokens: int = Field(48, ge=1)
    """Longest caption, in tokens."""
    keywords: Literal["post", "caption", "tags"] = "post"
    """Where an image's keywords come from: its post, the content words of its caption, or the
    CLIP's choice among the ``tags``."""
    tags: tuple[str, ...] = ()
    """Keywords to choose among, the same for every image."""
    tag_threshold: float = Field(0.05, ge=0, le=1)
    """Tags whose probability among all tags is lower are left out."""
    max_keywords: int = Field(12, ge=1)
    """At most this many keywords out of a caption or the tags."""
    batch: int = Field(8, ge=1)
    """Images per forward pass of a detector or captioner: fixed, so that an image's result does not
    depend on which other images are in its batch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of detectors and captioners; auto: bfloat16 where there is a GPU, else float32."""

    @model_validator(mode="after")
    def _check(self) -> Perception:
        if self.detector != "salient" and not self.detector_model:
            raise ValueError(f"detector {self.detector} needs detector_model, a hub id or a folder")
        if self.detector != "salient" and self.vocabulary == "kinds" and not self.kinds:
            raise ValueError(
                f"detector {self.detector} needs kinds to look for, or vocabulary keywords"
            )
        if self.detector == "salient" and self.vocabulary == "keywords":
            raise ValueError(
                "vocabulary keywords needs detector grounding_dino or owlv2: salient regions are named out of kinds"
            )
        if self.captioner != "none" and not self.caption_model:
            raise ValueError(
                f"captioner {self.captioner} needs caption_model, a hub id or a folder"
            )
        if self.keywords == "caption" and self.captioner == "none":
            raise ValueError("keywords caption needs captioner blip or llava")
        if self.keywords == "tags" and len(set(self.tags)) < 2:
            raise ValueError("keywords tags needs at least two tags to choose among")
        return self


class LLM(_Section):
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
    patterns: dict[Pattern, float] = {"describe": 1.0}
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


class Resources(_Section):
    """What one Ray actor or training worker asks for."""

    cpus: float = Field(0.5, gt=0)
    """CPUs per actor or worker."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per actor or worker; with a share such as 0.25, several of them use one GPU."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes that it may run on: ``{pool: rollouts}``, ``{market: "!spot"}``,
    ``{zone: "in(a,b)"}``; empty: any node."""


class Reward(_Section):
    """What DDPO maximizes."""

    weights: dict[RewardName, float] = Field({"contrast": 1.0}, min_length=1)
    """Formulations by their weights. Of several, each counts in units of its own spread on real
    validation images; one alone keeps its own unit."""
    clip_percentiles: tuple[float, float] = (1.0, 99.0)
    """Rewards are clipped to this range of the reward on real validation images."""
    posts: int = Field(600, ge=10)
    """Held-out posts per split that the calibration scores."""
    min_auc: Fraction | None = Field(0.5, ge=0, lt=1)
    """``ddpo`` refuses a reward unless the whole 95 % interval of its AUC, HIGH against LOW on test
    images, lies above this value; 0.5 is chance; null: any reward is accepted."""
    chunk: int = Field(32, ge=1)
    """Images per scored chunk: fixed, so that a chunk that is scored again gives the same bits."""
    split: Literal["train", "validation", "test", "held_out"] = "test"
    """What score_rewards scores where it is given no folder of images."""
    actors: int = Field(1, ge=1)
    """Ray actors that score images."""
    resources: Resources | None = None
    """What such an actor asks for; null: the recipe's ``resources``."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray runtime environment of such an actor, such as ``{pip: [spacy]}``; empty: that of the job.
    No place for secrets."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest time for a chunk, in seconds. An actor that takes longer is replaced, and its chunk
    is scored again."""

    @model_validator(mode="after")
    def _check(self) -> Reward:
        if 0 in self.weights.values():
            raise ValueError(f"weights {self.weights} must differ from 0")
        return self

    @property
    def name(self) -> str:
        """What is maximized, in words: ``contrast``, or ``contrast + 0.5 dsg``."""
        return " + ".join(
            name if weight == 1 else f"{weight:g} {name}" for name, weight in self.weights.items()
        )


class SD(_Section):
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


class Plateau(_Section):
    """The reward no longer rises."""

    action: Action = "warn"
    """What happens then."""
    epochs: int = Field(10, ge=1)
    """Latest epochs that are held against all before."""
    rise: float = Field(0.05, ge=0)
    """Rise that is expected of them, in spreads (standard deviations) of the first epoch's
    rewards."""


class Fall(_Section):
    """The reward falls again."""

    action: Action = "warn"
    """What happens then."""
    epochs: int = Field(3, ge=1)
    """Epochs per mean, since the reward of a single epoch is noisy."""
    share: Fraction = Field(0.5, gt=0, le=1)
    """Share of the rise up to the best mean that may be lost."""


class Collapse(_Section):
    """Images grow alike."""

    action: Action = "warn"
    """What happens then."""
    diversity: Fraction = Field(0.25, ge=0, le=1)
    """Share of the first epoch's difference between images of one prompt that must stay. Low,
    because it is a difference of pixels: images that all take on the rewarded colors lose most of
    it long before they show the same. Under a reward for warm colors alone the tiny model kept 26 %
    of it where a CLIP still found 68 % of the variety, and two epochs later 4 % where the CLIP
    found 34 %."""
    entropy: Fraction = Field(0.5, ge=0, le=1)
    """Share of the first epoch's entropy of palette colors that must stay."""


class Drift(_Section):
    """Images no longer show what their prompts say."""

    action: Action = "warn"
    """What happens then."""
    margin: Fraction = Field(0.8, gt=0, le=1)
    """Share of the base's CLIP margin that must stay: how much better the probe's images fit their
    own prompt than the other prompts."""


class Overoptimization(_Section):
    """The reward rises, and what it stands for falls: the engagement predictor on held-out prompts,
    or the reward on them."""

    action: Action = "warn"
    """What happens then."""
    rise: float = Field(0.5, ge=0)
    """Rise of the training's reward since the probe's best, in spreads of the first epoch's
    rewards, that makes a fall suspicious."""
    fall: float = Field(0.5, gt=0)
    """Fall of the probe since its best that counts, in spreads of the first probe's images: between
    two means of 64 independent images the standard error is 0.18."""


class Monitors(_Section):
    """Signs of a training that fails, checked after each epoch; the last two where there is a
    probe."""

    plateau: Plateau = Plateau()
    """No rise of the reward."""
    fall: Fall = Fall()
    """Loss of what the reward gained."""
    collapse: Collapse = Collapse()
    """Loss of variety."""
    drift: Drift = Drift()
    """Loss of the prompts' content."""
    overoptimization: Overoptimization = Overoptimization()
    """A reward that is hacked, or learned by heart."""

    @property
    def keeps_best(self) -> bool:
        """Whether any monitor may ask for the policy of the best epoch."""
        return any(getattr(self, name).action == "keep_best" for name in type(self).model_fields)


class DDPO(_Section):
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


class FewShot(_Section):
    """A general language model behind an OpenAI-compatible endpoint, shown examples of the training
    split."""

    base_url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    """Of the endpoint, up to where ``/chat/completions`` follows: ``https://HOST/v1``. Posts are
    sent there."""
    model: str = Field(min_length=1)
    """Name that the endpoint gives the model."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the stage's environment variable that holds the key, never the key itself; null: the
    endpoint needs no key."""
    shots: tuple[Annotated[int, Field(ge=1, le=30)], ...] = Field((3, 5), min_length=1)
    """Examples in the prompt; each number is a baseline of its own, the largest is the report's
    ``few_shot``."""
    posts: int = Field(50, ge=1)
    """Test posts per bucket that the model is asked about."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests that are open at the same time."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest time for one answer, in seconds."""
    attempts: int = Field(5, ge=1)
    """Attempts per request: one that ends in 429, 5xx or a lost connection is made again."""
    max_tokens: int = Field(600, ge=16)
    """Longest answer, in the endpoint's tokens."""


class Aesthetic(_Section):
    """A score of looks: a head on the image embeddings of the CLIP that it was trained on, such as
    LAION's for ViT-L/14."""

    clip: str = Field(min_length=1)
    """That CLIP: a hub id or a folder."""
    head: str = Field(min_length=1)
    """Weights of the head, one linear layer or several: a file or store URI, safetensors or a torch
    state dict."""


class Evaluation(_Section):
    """What evaluate_sd measures, paired by prompt and seed, and how evaluate_llm measures
    descriptions."""

    prompts: int = Field(50, ge=2)
    """Test prompts, as many from posts of each KPI bucket as there are."""
    images_per_prompt: int = Field(4, ge=2)
    """Images per prompt and model."""
    sampling_steps: int = Field(20, ge=2)
    """Deterministic denoising steps."""
    guidance: float = Field(3.0, ge=1)
    """Guidance as in deployment; base and BoigSD are also sampled without guidance."""
    clip: str = "package:clip-judge"
    """The CLIP that gives the CLIP score; it took no part in training."""
    features: str = "package:clip-judge"
    """Vision model whose features serve KID and FID."""
    judge: str | None = None
    """Held-out judge: ``adworld:LAW`` for the ad world's oracle; ``predictor`` for an engagement
    predictor that finetune_llm trains on the split ``judge`` alone; null: absent from the
    report."""
    best_of_n: int | None = Field(None, ge=2)
    """Also report best-of-N by the reward, over the images of the base and of BoigSD; null: it is
    absent."""
    rewrite: tuple[Rewrite, ...] = ()
    """Also report prompt rewriting, on the base and on BoigSD, one way or both. After the prompt
    stand, by ``retrieval``, the words of the nearest high-KPI training post, of the same account
    where it has one; by ``boigllm``, BoigLLM's description of a high-KPI image."""
    aesthetic: Aesthetic | None = None
    """What scores the looks of images; null: absent from the report."""
    fid_min: int = Field(1000, ge=2)
    """FID is reported only for at least this many images on each side; KID always is."""
    bootstrap: int = Field(1000, ge=100)
    """Resamples of each interval."""
    word_vectors: str | None = Field(None, pattern=r"^(spacy|hf):.+$")
    """What compares names of colors and objects: ``spacy:MODEL`` (the paper: spaCy), ``hf:ID`` for
    a sentence-embedding model by hub id or folder; null: hashed character n-grams, offline."""
    few_shot: FewShot | None = None
    """A general language model to compare BoigLLM with; null: absent from the report."""

    @field_validator("rewrite", mode="before")
    @classmethod
    def _one_or_both(cls, value: Any) -> Any:
        """One way needs no brackets."""
        return (value,) if isinstance(value, str) else value


class Promotion(_Section):
    """Gates that a candidate passes before a person is asked; beside them stands the reward's own
    (`Reward.min_auc`)."""

    min_reward_gain: float = 0.0
    """Lower end of the paired 95 % interval of reward, candidate minus base, must exceed this."""
    min_judge_gain: float | None = 0.0
    """The same for the held-out judge; null: this gate is not asked."""
    min_champion_gain: float | None = 0.0
    """The same for the held-out judge, candidate minus the registry's champion; below 0 a candidate
    may be worse by that much; null: not asked. Without a champion the gate does not apply."""
    min_clip_margin: Fraction = Field(0.9, ge=0)
    """Share of the base's CLIP margin (matched minus mismatched captions) that must be kept."""
    min_diversity: Fraction = Field(0.5, ge=0)
    """Share of the base's diversity that must be kept."""
    max_fid: float | None = Field(2.0, gt=0)
    """FID, as a share of the base's, must not exceed this where it is measured; null: not asked."""
    silent: tuple[Monitor, ...] = ("fall", "collapse", "drift", "overoptimization")
    """Monitors of ddpo that must not have tripped; one that is off, or needs a probe that the
    training does without, is silent."""
    max_days: float = Field(7.0, gt=0)
    """Days that the approval waits for a person."""


class Recipe(_Section):
    """One run of the whole system. Sections follow the way of the data."""

    name: str = Field("custom", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name that runs and reports show."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    data: Data = Data()
    """Ingestion."""
    perception: Perception = Perception()
    """Verbalization of images."""
    llm: LLM = LLM()
    """BoigLLM."""
    reward: Reward = Reward()
    """The reward and its calibration."""
    sd: SD = SD()
    """Base model and high-KPI baseline."""
    ddpo: DDPO = DDPO()
    """Alignment."""
    evaluation: Evaluation = Evaluation()
    """Evaluation of the generators."""
    promotion: Promotion = Promotion()
    """Gates."""
    resources: Resources = Resources()
    """Ray resources."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        unknown = [name for name in self.llm.more_kpis if name not in self.data.more_kpis]
        if unknown:
            raise ValueError(
                f"llm.more_kpis {unknown} must be among data.more_kpis {list(self.data.more_kpis)}"
            )
        if "engagement" in self.reward.weights and self.llm.predictor == "none":
            raise ValueError(
                "reward.weights name engagement, which needs a predictor: set llm.predictor to head or text"
            )
        if self.evaluation.judge == "predictor" and (
            self.llm.predictor == "none" or not self.data.judge
        ):
            raise ValueError(
                "evaluation.judge predictor needs posts and a kind: set data.judge above 0, and llm.predictor to head or text"
            )
        if self.ddpo.probe_every is not None and self.perception.clip == self.evaluation.clip:
            rule = "differ from evaluation.clip, which judges afterwards and takes no part in training, or ddpo.probe_every be null"
            raise ValueError(
                f"perception.clip {self.perception.clip}, which the probe of ddpo reads, must {rule}"
            )
        if self.ddpo.workers > 1 and 0 < self.worker_resources.gpus <= 0.5:
            raise ValueError(
                f"{self.ddpo.workers} ranks of {self.worker_resources.gpus:g} GPU may share one: ask for more than 0.5"
            )
        return self

    @property
    def llm_models(self) -> list[str]:
        """Models that behavior fine-tuning trains, in their order."""
        judge = ["judge"] if self.evaluation.judge == "predictor" else []
        return [
            "boigllm",
            "no_kpi",
            *(["predictor"] if self.llm.predictor != "none" else []),
            *judge,
        ]

    @property
    def llm_workers(self) -> int:
        """Worker processes of behavior fine-tuning at a time."""
        return self.llm.workers * min(self.llm.at_once, len(self.llm_models))

    @property
    def scorer_resources(self) -> Resources:
        """What a reward actor asks for."""
        return self.reward.resources or self.resources

    @property
    def rollout_resources(self) -> Resources:
        """What a rollout actor asks for."""
        return self.ddpo.rollout_resources or self.resources

    @property
    def worker_resources(self) -> Resources:
        """What a learner rank of ``ddpo`` asks for."""
        return self.ddpo.worker_resources or self.resources

    def digest(self) -> str:
        """SHA-256 of the resolved recipe as canonical JSON: 64 hex digits."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("boig_core.recipes").iterdir()
        if p.name.endswith(".yaml")
    )


def is_recipe_file(name_or_path: str) -> bool:
    """Whether a recipe is named by its file, not by its name in the package."""
    return Path(name_or_path).suffix in {".yaml", ".yml"} or os.sep in name_or_path


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe.

    Args:
        name_or_path: a recipe of the package by name, or a YAML file.
        overrides: ``section.field=value`` settings, the value as YAML; later ones win.

    Raises:
        RecipeError: no such recipe, YAML that cannot be read, an unknown key, or a value that
            breaks its rule.
    """
    tree = _tree(name_or_path)
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree)


def _tree(name_or_path: str) -> dict[str, Any]:
    """A recipe file over the one that it extends: a field of a section wins as a whole."""
    path = Path(name_or_path)
    if is_recipe_file(name_or_path):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise RecipeError(
                f"recipe {name_or_path}", f"cannot be read ({exc})", "give the path of a YAML file"
            ) from exc
        fallback = path.stem
    elif name_or_path in recipe_names():
        text = (
            resources.files("boig_core.recipes")
            .joinpath(f"{name_or_path}.yaml")
            .read_text(encoding="utf-8")
        )
        fallback = name_or_path
    else:
        raise RecipeError(
            f"recipe {name_or_path!r}",
            "is not known",
            f"use one of {', '.join(recipe_names())} or the path of a YAML file",
        )
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as exc:
        raise RecipeError(
            f"recipe {name_or_path}", "is not valid YAML", " ".join(str(exc).split())
        ) from exc
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe {name_or_path}", "must be a mapping of sections", "see `boig recipe show tiny`"
        )
    tree.setdefault("name", fallback)
    if (below := tree.pop("extends", None)) is None:
        return tree
    if below not in recipe_names():
        raise RecipeError(
            f"extends = {below!r}",
            "must be a recipe of the package",
            f"use one of {', '.join(recipe_names())}",
        )
    merged = _tree(below)
    for key, value in tree.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def parse_recipe(tree: Any) -> Recipe:
    """Validate a recipe's tree, as from JSON or YAML.

    Raises:
        RecipeError: naming the first field that fails, its value, the rule and the nearest known
            key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as exc:
        raise _first_error(exc) from None  # it says all that pydantic's own text does


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"override {override!r}", "must read section.field=value", "for example ddpo.epochs=5"
        )
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(
                f"override {override!r}", f"{parent} is no section", "see `boig recipe show tiny`"
            )
        node = child
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise RecipeError(
            f"override {override!r}", "the value is not valid YAML", "quote it"
        ) from exc


def _first_error(exc: ValidationError) -> RecipeError:
    error = exc.errors(include_url=False)[0]
    where = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _known_keys(error["loc"][:-1]), n=1)
        remedy = (
            f"did you mean {near[0]}?"
            if near
            else f"known keys: {', '.join(_known_keys(error['loc'][:-1]))}"
        )
        return RecipeError(where, "is not a key of the recipe", remedy)
    rule = error["msg"].removeprefix("Value error, ")
    met = (
        where if isinstance(error["input"], (dict, BaseModel)) else f"{where} = {error['input']!r}"
    )
    return RecipeError(
        met, rule[0].lower() + rule[1:], "see `boig recipe show tiny` for every field"
    )


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    model: Any = Recipe
    for part in loc:
        model = model.model_fields[str(part)].annotation
        model = next(
            (
                kind
                for kind in get_args(model)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            model,
        )
    return list(model.model_fields)
