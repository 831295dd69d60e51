"""Section ``data``: which posts count, how KPIs become buckets, how posts are split."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from boig_core.config.dialect import Dialect
from boig_core.config.presets import Preset, with_preset
from boig_core.config.section import Fraction, Section

Column = Literal[
    "id", "account", "company", "timestamp", "text", "image", "images", "keywords", "licence"
]
"""A column of a post, beside its KPIs."""
DateOrder = Literal["day-first", "month-first"]
"""What comes first in a date such as ``05/06/2023``."""
DecimalSign = Literal["point", "comma"]
"""What stands before the decimals of a number."""
Kpi = Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)?$")]
"""A numeric column, or the rate of two: ``clicks/impressions``."""
ImageFormat = Literal["original", "png", "jpeg", "webp"]
"""How a dataset keeps images."""
SplitBy = Literal["post", "account", "time"]
"""What never crosses splits."""


class Data(Section):
    """Which posts count, how a KPI becomes the buckets low, medium and high, and how posts are
    split into training, validation and test."""

    name: str = Field("posts", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the dataset, whose versions lie in the store under ``datasets/NAME``. Give each brand
    or export a name of its own."""
    kpi: Kpi = "likes"
    """The number that the models aim at: a numeric column of the posts, or the rate of two columns,
    such as ``clicks/impressions``."""
    more_kpis: tuple[Kpi, ...] = ()
    """Further KPIs that are kept beside ``kpi``, each with a percentile and a bucket of its own. A
    post may lack them."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """What your export calls our columns, where the names differ. ``account: user.name`` reaches
    into a nested object, and ``account: =stock`` gives every row the same value."""
    preset: Preset | None = None
    """The export that the posts come from: it names ``columns``, ``kpi`` and ``dates`` where the
    recipe does not. The guide on posts says what each export lacks. null: none."""
    dates: DateOrder | None = None
    """Whether the day or the month comes first in dates with slashes or hyphens, such as
    ``05/06/2023``. null: other dates of the same file settle it, or such rows are rejected."""
    numbers: DecimalSign | None = None
    """Whether a ``point`` or a ``comma`` stands before decimals where numbers are written as text,
    such as ``1,234``. null: other numbers of the same column settle it, or such rows are
    rejected."""
    dialect: Dialect = Dialect()
    """How the posts file is written, where it does not tell by itself."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """A row counts only when these columns hold one of the values listed, such as
    ``category: [product, service]``. All of several columns must match; empty: every row counts."""
    min_text: int = Field(50, ge=0)
    """Shortest text of a post, in characters; posts with a shorter one are rejected. It is measured
    after ``mask_links``; 0: any text will do."""
    max_text: int | None = Field(None, ge=1)
    """Longest text of a post, in characters; posts with a longer one are rejected. null: no
    limit."""
    mask_links: bool = True
    """Write ``<hyperlink>`` in place of each link in a text, so that no model learns addresses by
    heart."""
    min_posts: int = Field(1, ge=1)
    """Accounts with fewer posts are left out: their percentiles would say little. The paper asks
    for more than 1,000."""
    max_posts: int = Field(2000, ge=1)
    """Largest number of posts that are taken from one account, drawn at random by ``seed``, so that
    no large account rules the dataset."""
    since: str | None = None
    """First day whose posts count, as ``YYYY-MM-DD`` in UTC. null: no such limit."""
    until: str | None = None
    """First day whose posts no longer count, as ``YYYY-MM-DD`` in UTC. null: no such limit."""
    late_days: float = Field(2.0, ge=0)
    """A scheduled ingestion reads posts again that are at most so many days older than the newest
    it holds: some arrive late, and counts still move. 0: none; an ingestion by hand reads all posts
    in any case."""
    percentiles: tuple[float, float] = (60.0, 90.0)
    """Where buckets meet: percentiles of the KPI among the posts of an account, between 0 and 100.
    The first parts low from medium, the second medium from high."""
    floors: tuple[float, float, float] = (20, 30, 40)
    """What the KPI must exceed for the buckets low, medium and high; a post that does not is in no
    bucket, and no training learns from it. 0: no floor, so that a KPI of 0 counts too; further KPIs
    have no floors."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the posts in the splits train, validation and test, which sum to 1. Posts of the
    splits ``held_out`` and ``judge`` are not among them."""
    split_by: SplitBy = "post"
    """What never crosses splits: a ``post`` with all its images; an ``account``, to measure on
    accounts that are new to the models; or a moment of ``time``, to measure on later posts (the
    earliest train)."""
    held_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """A domain kept apart: posts in which one of these columns holds one of its values form the
    split ``held_out``, which no training reads. Empty: no such split."""
    judge: Fraction = Field(0.0, ge=0, lt=1)
    """Share of the posts that are kept apart as the split ``judge``, from which only the predictor
    of ``evaluation.judge`` learns. 0: no such split."""
    near_duplicates: int | None = Field(3, ge=0, le=7)
    """Images that look nearly alike stay in one split: those whose perceptual hashes differ in at
    most so many of 64 bits. null: only identical images stay together."""
    negatives: Fraction = Field(0.0, ge=0, le=1)
    """Share of the high and medium training samples that come again as negatives, with an unrelated
    image and a low KPI: an image that does not fit its post should do badly. 0: none; the paper
    takes 0.25."""
    negative_kpi: tuple[float, float] = (5.0, 15.0)
    """Lowest and highest KPI of a negative, in units of ``kpi``; each is drawn evenly between the
    two."""
    image_format: ImageFormat = "original"
    """How images are kept, in sRGB. ``original`` keeps plain JPEG, PNG and WebP files as they are,
    but for their metadata, and makes a fine JPEG or a PNG of the rest; any other format encodes
    every image anew, which may save room. A side too long for ``webp`` (16,383 pixels) makes a
    JPEG, and one too long for a JPEG (65,500) a PNG."""
    image_quality: int = Field(90, ge=1, le=100)
    """Quality, from 1 to 100, of the images that ``image_format: jpeg`` or ``webp`` encodes anew.
    Other formats do not read it."""
    shard_mb: float = Field(64.0, gt=0)
    """Target size of a shard, a file of many images in the store, in MiB. Smaller ones are safe
    sooner when an ingestion is killed, larger ones make fewer files."""
    fetch_concurrency: int = Field(16, ge=1)
    """Images that one worker fetches at a time; there is a worker for each CPU core. Raise it where
    fetching waits for the network."""
    fetch_per_host: int = Field(8, ge=1)
    """Requests that one worker has open at one web host at a time. Lower it for a host that
    complains or slows down."""
    user_agent: str = Field(
        "boig/0.1 (fetches the images of a posts export)", min_length=1, pattern=r"^[\x20-\x7e]+$"
    )
    """Name that web requests bear: a host that wants to complain, or to opt out by name, must be
    able to. Add an address at which you can be reached."""
    fetch_timeout_s: float = Field(30.0, gt=0)
    """Longest time for one request for an image on the web, in seconds. A request without an answer
    is made again a few times; an image that takes longer is rejected."""
    max_image_mb: float = Field(20.0, gt=0)
    """Largest file of an image, in MiB; larger ones are rejected."""
    max_pixels: int = Field(50_000_000, gt=0)
    """Largest number of pixels of an image, width times height. Images with more are rejected
    before they are unpacked, since a small file may unpack to gigabytes (a decompression bomb)."""
    tables_mb: int = Field(128, ge=64)
    """Memory that the tables of an ingestion take before they go to disk, in MiB; the default is
    enough for some ten million posts. Double it where an ingestion says that it is too little."""
    allow_private_hosts: bool = False
    """Let the URLs of images, and of a posts file, lead to loopback and private addresses, and
    requests use the environment's proxies. For tests and intranets alone: whoever writes the posts
    then reaches inside your network."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tree: Any) -> Any:
        return with_preset(tree)

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
