"""Ray Data around the perception room: images described on a pool of actors, each of which loads
its models once.

What describes an image lives in `boig_core.perception` and runs without Ray; here it only gets fed.
Results do not depend on the number of actors. Leaves out: what is read and written (see
`ray_jobs.perceive`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data

from boig_core.cluster.placement import actor_options
from boig_core.cluster.spread import spread
from boig_core.config import Perception, Resources
from boig_core.data import dataset, perceived
from boig_core.data.imaging.images import StoredImage, decode
from boig_core.data.perceived import Question
from boig_core.evaluation.measure import doubts
from boig_core.evaluation.measure.doubts import TextMatch
from boig_core.perception.describe import Perceiver
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import Perceived

_DESCRIBE_BATCH: Final = 256
"""Images an actor describes at a time: the fixed unit of work."""


def describe_images(
    dataset_uri: str,
    wanted: Mapping[FileEntry, Sequence[Question]],
    perception: Perception,
    resources: Resources,
    folder: str,
) -> Iterator[tuple[str, list[Question]]]:
    """Describe images on a pool of actors, each of which loads its models once and keeps safe what
    it has seen, slice by slice.

    Args:
        dataset_uri: a committed dataset.
        wanted: the questions that have no answer yet, by image shard.
        perception: the recipe's section.
        resources: what an actor asks for.
        folder: where results are kept.

    Yields:
        File of each slice and the questions that it answers, as they come.
    """
    # A slice is what an actor gets at a time and keeps as one file: no more goes with an actor that
    # is lost.
    slices = [
        {
            "shard": entry.model_dump_json(),
            "questions": [
                asdict(question) for question in questions[start : start + _DESCRIBE_BATCH]
            ],
        }
        for entry, questions in wanted.items()
        for start in range(0, len(questions), _DESCRIBE_BATCH)
    ]
    # No pool for nothing: its actors would load their models first.
    if not slices:
        return
    _quiet()
    # Half of the cluster's CPUs: an actor has to load its models first, so a few busy ones beat
    # many that load.
    actors = max(1, min(len(slices), int(ray.cluster_resources().get("CPU", 1)) // 2))
    # A block for each slice, since blocks are what Ray Data hands out: fewer would give an actor
    # several slices at a time.
    described = ray.data.from_items(slices, override_num_blocks=len(slices)).map_batches(
        _DescribeSlices,
        fn_constructor_args=(dataset_uri, perception, folder),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        **actor_options(resources),
    )
    # Block by block: a batch of a fixed size would hold back slices that are done.
    for batch in described.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            yield row["file"], [_question(fields) for fields in row["questions"]]


def build_perception(
    shards: Sequence[Sequence[Question]], files: Mapping[Question, str], folder: str
) -> list[FileEntry]:
    """What `perceived.build_shard` returns for each image shard, in their order."""
    tasks = (
        (folder, questions, {question: files[question] for question in questions})
        for questions in shards
    )
    # `spread` yields in the order in which tasks end.
    built = dict(spread(perceived.build_shard, tasks))
    return [built[number] for number in range(len(shards))]


def measure_match(
    dataset_uri: str,
    words: Mapping[FileEntry, Mapping[str, str]],
    clip: str,
    resources: Resources,
) -> TextMatch:
    """`doubts.measure_match` where models are loaded: on the cluster, not in the stage's driver."""
    task = ray.remote(**actor_options(resources))(doubts.measure_match)
    result: TextMatch = ray.get(task.remote(dataset_uri, words, clip))
    return result


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
        if (
            self._open[0] != piece["shard"]
        ):  # slices of a shard come one after another, so the last one read stays at hand
            entry = FileEntry.model_validate_json(piece["shard"])
            self._open = (
                piece["shard"],
                {image.sha256: image for image in dataset.shard_images(self._dataset_uri, entry)},
            )
        questions = [_question(fields) for fields in piece["questions"]]
        images = [self._open[1][question.sha256] for question in questions]
        seen = dict(zip(questions, self._look(images, questions), strict=True))
        table = perceived.table_of(
            seen, {image.sha256: (image.width, image.height) for image in images}
        )
        return pa.table(
            {"file": [perceived.keep_part(table, self._folder)], "questions": [piece["questions"]]}
        )

    def _look(self, images: list[StoredImage], questions: list[Question]) -> list[Perceived]:
        pixels = [decode(image.data) for image in images]
        captions = self._perceiver.caption(pixels)
        keywords = self._perceiver.keywords(pixels, captions)
        words = (
            [own or question.words for own, question in zip(keywords, questions, strict=True)]
            if self._by_keywords
            else None
        )
        described = self._perceiver.describe(pixels, words)
        side = self._perceiver.side
        # Everything is measured at the perceiver's side, generated images too (decision 0002);
        # boxes then belong to the image as it is stored.
        return [
            Perceived(description.scaled(image.width / side, image.height / side), caption, own)
            for image, description, caption, own in zip(
                images, described, captions, keywords, strict=True
            )
        ]


def _question(fields: Mapping[str, Any]) -> Question:
    return Question(fields["sha256"], tuple(fields["words"]))


def _quiet() -> None:
    """No progress bars: a stage's log is read in Airflow, line by line."""
    ray.data.DataContext.get_current().enable_progress_bars = False
