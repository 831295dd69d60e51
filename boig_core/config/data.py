"""Section ``data``: which posts count, how KPIs become buckets, how posts are split."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from boig_core.config.section import Fraction, Section

Column = Literal[
    "id", "account", "company", "timestamp", "text", "image", "images", "keywords", "licence"
]
"""A column of a post, beside its KPIs."""
Kpi = Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)?$")]
"""A numeric column, or the rate of two: ``clicks/impressions``."""
ImageFormat = Literal["original", "png", "jpeg", "webp"]
"""How a dataset keeps images."""
SplitBy = Literal["post", "account", "time"]
"""What never crosses splits."""


class Data(Section):
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
        # Shares such as 0.7, 0.2 and 0.1 do not sum to 1 exactly.
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
