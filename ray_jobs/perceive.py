"""Stage perceive: what is seen in every image of a dataset, as a new version of it.

Input ``dataset``. Output ``dataset``: its tables copied, perception shards beside its image shards,
``perceived: true``. Images that were looked at before with the same settings, models and code are
not looked at again. What is doubtful about the result is logged, and stands in the metrics, the
manifest and the data card.
"""

from __future__ import annotations

import sys
from typing import Any

from boig_core.adworld import export
from boig_core.cluster.stage import run_stage
from boig_core.config import Perception
from boig_core.data import card, dataset, forgotten, perceived, tables
from boig_core.data.perceived import Question
from boig_core.errors import InputError
from boig_core.evaluation.measure import doubts
from boig_core.models import ships
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Progress, progress_log
from boig_core.perception.version import perception_key
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry, Manifest
from boig_core.storage.stage import Outcome, Workspace

log = get_logger(__name__)


def work(space: Workspace) -> Outcome:
    """Look, keep, publish.

    Raises:
        InputError: the dataset belongs to another store or has another name than the recipe's, a
            model cannot be opened, or the package's CLIP would name what it does not know.
        CorruptError: the dataset differs from its manifest.
    """
    from boig_core.cluster.perceive import build_perception, describe_images
    from boig_core.cluster.session import connect

    forgotten.require_no_erasure(space.job.store)
    recipe = space.recipe
    source = space.job.input("dataset")
    folder, parts = space.fetch("dataset", dataset.KIND)
    shards = dataset.shards(parts, tables.IMAGES)
    family = f"datasets/{recipe.data.name}"
    # The new version names the shards of the old one and copies none, so both must share a place.
    dataset.must_lie_in(source, store.join(space.job.store, family))
    _require_known_images(recipe.perception, source, parts)
    questions = _questions(recipe.perception, source, parts)
    key = perception_key(recipe.perception)
    kept = perceived.folder_of(space.job.store, key)
    files = perceived.known(kept, (question for of_shard in questions for question in of_shard))
    missing = {
        entry: [q for q in of_shard if q not in files]
        for entry, of_shard in zip(shards, questions, strict=True)
    }
    total = sum(map(len, missing.values()))
    log.info("perception %s: %d images are known, %d are looked at", key, len(files), total)
    connect()
    progress = Progress("images", total, progress_log())
    # Each file is in the store before it is told here, so a stage that starts again looks at
    # nothing twice.
    for file, answered in describe_images(
        source, missing, recipe.perception, recipe.resources, kept
    ):
        files |= dict.fromkeys(answered, file)
        progress.add([None] * len(answered))
    progress.close()
    seen = build_perception(questions, files, kept)
    census, report = _doubt(space, source, parts, seen)
    card.add_seen(folder, report)
    blobs = (*dataset.shards(parts, tables.POSTS), *shards, *seen)
    objects = dict(sorted(census.objects.items()))
    meta = {**parts.meta, "perceived": True, "perception": key, "objects": objects, "seen": report}
    uri = space.publish(family, folder, kind=dataset.KIND, meta=meta, blobs=blobs)
    counts = {"images": sum(map(len, questions)), "described": total, "objects": objects}
    metrics = {**report, **counts}
    # After the commit: until then the slices are all that a stage that starts again would find.
    return Outcome(
        {"dataset": uri}, metrics, after=lambda: perceived.clear(kept, set(files.values()))
    )


def _doubt(
    space: Workspace, source: str, parts: Manifest, seen: list[FileEntry]
) -> tuple[doubts.Census, dict[str, Any]]:
    """Count what was seen, and log what is doubtful about it; the counts and the report."""
    from boig_core.cluster.perceive import measure_match

    perception = space.recipe.perception
    looks = (look for entry in seen for _, look in dataset.shard_seen(source, entry))
    census = doubts.Census.of(look.description for look in looks)
    log.info("objects: %s", dict(census.objects.most_common(40)))
    match = doubts.TextMatch(None, absent="no CLIP names or tags anything")
    if doubts.uses_clip(perception):
        words = dataset.images_with_words(source, parts, doubts.IMAGES)
        match = measure_match(source, words, perception.clip, space.recipe.resources)
    report = doubts.report(perception, census, match)
    for warning in report["warnings"]:
        log.warning("%s", warning)
    return census, report


def _require_known_images(perception: Perception, source: str, parts: Manifest) -> None:
    """The package's CLIPs know nothing but the ad world's drawings: what they say of other images
    is refused, unless the recipe wants it anyway.

    Asked of the posts themselves, since a dataset may have any name, lie anywhere, and have grown
    by posts of another kind.

    Raises:
        InputError: the recipe's CLIP is one of them, and a post is not the ad world's.
    """
    if perception.clip_anyway or not doubts.uses_clip(perception) or not ships(perception.clip):
        return
    for post in dataset.read_posts(source, parts):
        if not export.is_own(post["account"], post["company"], post["text"]):
            raise InputError(
                f"perception.clip = {perception.clip}",
                f"knows the ad world's drawings alone, and post {post['id']} of {post['account']} is none of the ad world's",
                "name a CLIP that knows such images in perception.clip or a detector in perception.detector, "
                "or set perception.clip_anyway: true for a rehearsal, whose names mean nothing",
            )


def _questions(perception: Perception, source: str, parts: Manifest) -> list[list[Question]]:
    """The images of each shard, with the words that a detector is to look for in them."""
    own_words = perception.vocabulary == "keywords" and perception.keywords == "post"
    words = dataset.images_by_shard(source, parts, perception.max_keywords if own_words else 0)
    return [
        [
            Question(image, of_image)
            for image, of_image in sorted(words[dataset.shard_name(entry)].items())
        ]
        for entry in dataset.shards(parts, tables.IMAGES)
    ]


if __name__ == "__main__":
    sys.exit(run_stage(work))
