"""Ray Data around the data and perception rooms: images fetched, and described, on as many processes as the cluster offers.

The batch functions themselves live in `boig_core.data` and `boig_core.perception` and run without Ray; here they only get fed. Results
do not depend on the number of processes. Leaves out: what is read and written (see `ray_jobs.ingest`, `ray_jobs.perceive`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data

from boig_core.config import Data, Perception, Resources
from boig_core.data import dataset, perceived, staging
from boig_core.data.images import StoredImage, decode
from boig_core.data.ingestion import Shard
from boig_core.data.perceived import Question
from boig_core.data.staging import Chunk
from boig_core.perception.describe import Perceiver
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import Seen

_DESCRIBE_BATCH: Final = 256
"""Images an actor describes at a time: the fixed unit of work."""


@dataclass(frozen=True)
class RayCrew:
    """Fetches and packs on as many processes as the cluster offers; implements `ingestion.Crew`.

    Attributes:
        resources: what a process asks for; neither work needs a GPU.
    """

    resources: Resources

    def fetch(self, chunks: Iterable[Chunk], data: Data, folder: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process or node dies is staged again elsewhere.

        Raises:
            StoreUnavailableError: the store is away (wrapped by Ray).
        """

        def stage_batch(batch: pa.Table) -> pa.Table:
            [chunk] = batch.to_pylist()
            return staging.stage(Chunk(chunk["number"], chunk["key"], tuple(chunk["addresses"])), data, folder)

        yield from _spread([asdict(chunk) for chunk in chunks], stage_batch, self.resources)

    def build(self, shards: Sequence[Shard], folder: str, root: str) -> list[FileEntry]:
        """Shard by shard."""

        def build_batch(batch: pa.Table) -> pa.Table:
            [shard] = batch.to_pylist()
            entry = staging.build_shard(folder, shard["keys"], shard["images"], root)
            return pa.table({"nr": [shard["nr"]], "entry": [entry.model_dump_json()]})

        tasks = [{"nr": nr, "keys": list(shard.keys), "images": list(shard.images)} for nr, shard in enumerate(shards)]
        built = {row["nr"]: row["entry"] for table in _spread(tasks, build_batch, self.resources) for row in table.to_pylist()}
        return [FileEntry.model_validate_json(built[nr]) for nr in range(len(shards))]


def _spread(items: list[dict[str, Any]], work: Callable[[pa.Table], pa.Table], resources: Resources) -> Iterator[pa.Table]:
    """The result of each item, in no particular order."""
    if not items:
        return
    _quiet()
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    done = rows.map_batches(work, batch_size=1, batch_format="pyarrow", num_cpus=resources.cpus)
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow")


def describe_images(
    dataset_uri: str, wanted: Mapping[FileEntry, Sequence[Question]], perception: Perception, resources: Resources, folder: str
) -> Iterator[tuple[str, int]]:
    """Describe images on a pool of actors, each of which loads its models once and keeps safe what it has seen, slice by slice.

    Args:
        dataset_uri: a committed dataset.
        wanted: the questions that have no answer yet, by image shard.
        perception: the recipe's section.
        resources: what an actor asks for.
        folder: where results are kept.

    Yields:
        File and number of images of each slice, as they come.
    """
    slices = [
        {"shard": entry.model_dump_json(), "questions": [asdict(question) for question in questions[start : start + _DESCRIBE_BATCH]]}
        for entry, questions in wanted.items()
        for start in range(0, len(questions), _DESCRIBE_BATCH)
    ]
    if not slices:
        return
    _quiet()
    # Half of the cluster's CPUs: an actor has to load its models first, so a few busy ones beat many that load.
    actors = max(1, min(len(slices), int(ray.cluster_resources().get("CPU", 1)) // 2))
    described = ray.data.from_items(slices, override_num_blocks=len(slices)).map_batches(
        _DescribeSlices,
        fn_constructor_args=(dataset_uri, perception, folder),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )
    for batch in described.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            yield row["file"], row["images"]


def build_perception(
    shards: Sequence[Sequence[Question]], files: Mapping[Question, str], folder: str, resources: Resources
) -> list[FileEntry]:
    """What `perceived.build_shard` returns for each image shard, in their order."""

    def build_batch(batch: pa.Table) -> pa.Table:
        [row] = batch.to_pylist()
        questions = [_question(fields) for fields in row["questions"]]
        entry = perceived.build_shard(folder, questions, dict(zip(questions, row["files"], strict=True)))
        return pa.table({"nr": [row["nr"]], "entry": [entry.model_dump_json()]})

    tasks = [
        {"nr": nr, "questions": [asdict(question) for question in questions], "files": [files[question] for question in questions]}
        for nr, questions in enumerate(shards)
    ]
    built = {row["nr"]: row["entry"] for table in _spread(tasks, build_batch, resources) for row in table.to_pylist()}
    return [FileEntry.model_validate_json(built[nr]) for nr in range(len(shards))]


class _DescribeSlices:
    """Actor of `describe_images`: one slice of one shard at a time."""

    def __init__(self, dataset_uri: str, perception: Perception, folder: str) -> None:
        self._dataset_uri = dataset_uri
        self._folder = folder
        self._perceiver = Perceiver.from_recipe(perception)
        self._by_keywords = perception.vocabulary == "keywords"
        self._open: tuple[str, dict[str, StoredImage]] = ("", {})

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Look at the batch's one slice and keep what was seen."""
        [piece] = batch.to_pylist()
        if self._open[0] != piece["shard"]:  # slices of a shard come one after another, so the last one read stays at hand
            entry = FileEntry.model_validate_json(piece["shard"])
            self._open = piece["shard"], {image.sha256: image for image in dataset.shard_images(self._dataset_uri, entry)}
        questions = [_question(fields) for fields in piece["questions"]]
        images = [self._open[1][question.sha256] for question in questions]
        seen = dict(zip(questions, self._look(images, questions), strict=True))
        table = perceived.table_of(seen, {image.sha256: (image.width, image.height) for image in images})
        return pa.table({"file": [perceived.keep_part(table, self._folder)], "images": [len(images)]})

    def _look(self, images: list[StoredImage], questions: list[Question]) -> list[Seen]:
        pixels = [decode(image.data) for image in images]
        captions = self._perceiver.caption(pixels)
        keywords = self._perceiver.keywords(pixels, captions)
        words = [own or question.words for own, question in zip(keywords, questions, strict=True)] if self._by_keywords else None
        described = self._perceiver.describe(pixels, words)
        side = self._perceiver.side
        return [
            Seen(description.scaled(image.width / side, image.height / side), caption, own)
            for image, description, caption, own in zip(images, described, captions, keywords, strict=True)
        ]


def _question(fields: Mapping[str, Any]) -> Question:
    return Question(fields["sha256"], tuple(fields["words"]))


def _quiet() -> None:
    """No progress bars: a stage's log is read in Airflow, line by line."""
    ray.data.DataContext.get_current().enable_progress_bars = False
