"""Erasure: an account or a post is forgotten, and everything of it in a store is erased for good.

In this order, so that it may be broken off at any write and run again:

1. the tombstone (see `forgotten`): no ingestion that begins from now on takes the posts in;
2. ``forgotten/erasing.json``: until the end no stage begins to make a version of a dataset. Those
   that have begun are fenced, so that they never commit;
3. successors: versions without the posts, made as an ingestion of nothing on top of the old ones;
4. notes of withdrawal beside the manifests of all versions that hold a post, and of evaluations
   and reports of them. From here on whoever reads one is told what to use instead;
5. files: what perception saw, shards, staging, trash, samples and checkpoints of trainings, and
   last the tables by which all others are found;
6. a record of what was done, in which nobody is named.

Models stay: they are listed, with what would make new ones. Leaves out: what lies elsewhere, such
as the export, MLflow, copies of the store and older versions that a bucket keeps.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from boig_core.config import load_policy
from boig_core.data import dataset, forgotten, ingestion, staging
from boig_core.data.forgetting.erased_files import REPEATING, REPORT, decided, erase, side_files
from boig_core.data.forgetting.holdings import Holdings
from boig_core.data.forgotten import Subject
from boig_core.data.glance import many
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.storage import commit, marker, store, withdrawn
from boig_core.storage.check import side_by_side
from boig_core.storage.job import JOB, Job, Stage, read_job, write_job
from boig_core.storage.stage import Workspace
from boig_core.storage.withdrawn import Withdrawal

log = get_logger(__name__)
RECORDS: Final = f"{forgotten.FOLDER}/records"


@dataclass(frozen=True)
class Erasure:
    """What an erasure would do, or has done; nothing in it says whose posts they were.

    Attributes:
        applied: whether it was done.
        posts: of the subject, in shards.
        images: that only they show.
        withdrawn: place of each version, evaluation and report of which the manifest alone stays;
            with the place of what is to be used instead.
        shards: of posts and images that hold them.
        seen: files in which perception kept what it saw.
        files: of trainings and of the trash, that go with them.
        fenced: attempts that may no longer commit.
        under_way: trainings on a withdrawn version that have not ended.
        models: that were trained on a withdrawn version.
        kept: what would have to go and has to stay.
        record: place of the record.
    """

    applied: bool
    posts: int
    images: int
    withdrawn: dict[str, str | None]
    shards: int
    seen: int
    files: int
    fenced: tuple[str, ...]
    under_way: tuple[str, ...]
    models: tuple[str, ...]
    kept: tuple[str, ...]
    record: str | None = None


def survey(root: str, subject: Subject, name: str | None) -> Erasure:
    """What an erasure would do; nothing is written.

    Args:
        root: of the store.
        subject: what is to be forgotten.
        name: of the dataset; None: all of the store.

    Raises:
        InputError: the folder is no store of boig, or has no such dataset.
        CorruptError: a file that would have to be searched cannot be read.
    """
    marker.require(store.normalize(root))
    seen = Holdings(root, subject, _names(name))
    if name is not None and name not in seen.there:
        raise InputError(f"--name {name}", f"is no dataset of {seen.root}", _of_these(seen.there))
    for head in seen.heads():
        # Told now, and not after half of the work.
        read_job(store.join(seen.root, seen.attempt_of(head), JOB))
    notes: dict[str, str | None] = dict.fromkeys(_to_withdraw(seen))
    return _erasure(seen, notes, seen.open_makers(), applied=False)


def _of_these(names: Iterable[str]) -> str:
    return f"use one of {', '.join(sorted(names)) or 'none: there is no dataset yet'}"


def forget(
    root: str,
    subject: Subject,
    name: str | None,
    by: tuple[str, ...] | None,
    say: Callable[[str], object],
) -> Erasure:
    """Forget a subject, and erase what the store holds of it. It may be broken off at any point and
    done again.

    Args:
        root: of the store.
        subject: what is to be forgotten.
        name: of the dataset; None: all of the store, and those to come.
        by: who asks for it; goes into the job of a new version, since they have made it.
        say: takes a line for each step.

    Raises:
        InputError: as `survey`; or another erasure is under way.
        CorruptError: as `survey`.
        StoreUnavailableError: the store is away; run it again.
    """
    survey(root, subject, name)
    root, at = store.normalize(root), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    tombstone = forgotten.write(root, name or forgotten.WHOLE_STORE, subject, at)
    forgotten.begin(root, tombstone)
    say("what is forgotten is noted; no stage makes a version of a dataset meanwhile")
    erasure = f"forget-{tombstone.rsplit('-', 1)[1][:16]}"
    fenced = Holdings(root, subject, _names(name)).open_makers()
    for attempt in fenced:
        commit.fence(store.join(root, attempt))
    # After the fences: what committed before them is a version like any other.
    seen = Holdings(root, subject, _names(name))
    survey_before = _erasure(seen, {}, fenced, applied=True)
    for number, head in enumerate(seen.heads()):
        say(f"a version without the posts is made of {head}")
        _succeed(seen, head, erasure, number, by)
    _withdraw(Holdings(root, subject, _names(name)), erasure, at)
    say("versions that held them, and what repeats their texts, are withdrawn")
    files = erase(Holdings(root, subject, _names(name)), say)
    seen = Holdings(root, subject, _names(name))
    record = f"{RECORDS}/{at.replace(':', '-')}-{uuid.uuid4().hex[:8]}.json"
    done = replace(
        _erasure(seen, _notes(seen, erasure), fenced, applied=True),
        posts=survey_before.posts,
        images=survey_before.images,
        shards=survey_before.shards,
        seen=survey_before.seen,
        files=files,
        record=record,
    )
    body = {"schema_version": 1, "at": at, "tombstone": tombstone, **asdict(done)}
    store.write_bytes(store.join(root, record), json.dumps(body, indent=1).encode())
    forgotten.end(root)
    return done


def lines(done: Erasure) -> Iterator[str]:
    """For a terminal."""
    word = "erased" if done.applied else "would go"
    yield (
        f"{word}: {many(done.posts, 'post')}, {many(done.images, 'image')} that only they show, "
        f"{many(done.shards, 'shard')}, {many(done.seen, 'file')} of perception, "
        f"{many(done.files, 'other file')}"
    )
    for place, successor in sorted(done.withdrawn.items()):
        yield f"withdrawn  {place}" + (f" -> {successor}" if successor else "")
    yield from (f"fenced     {attempt}" for attempt in done.fenced)
    yield from (
        f"under way  {attempt}: stop it, or run this again once it has ended"
        for attempt in done.under_way
    )
    yield from (f"model      {place} has learned from them" for place in done.models)
    yield from (f"kept       {what}" for what in done.kept)
    yield from _retraining(done)
    if done.record is not None:
        yield f"record     {done.record}"


def _retraining(done: Erasure) -> Iterator[str]:
    """The commands by which models without the posts are made."""
    versions = sorted({at for at in done.withdrawn.values() if at is not None})
    if not done.models or not done.applied:
        return
    yield "models without them are made by:"
    for version in versions:
        yield f"  boig run perceive --recipe RECIPE --input dataset=STORE/{version}"
    yield '  airflow dags trigger boig_llm --conf \'{"dataset": "WHAT PERCEIVE PRINTS"}\''
    yield "boig_sd follows by its asset, and boig_promote asks before a new model is champion"


def _names(name: str | None) -> frozenset[str] | None:
    return None if name is None else frozenset({name})


def _to_withdraw(seen: Holdings) -> list[str]:
    """What has to be withdrawn and is not yet."""
    gone = [*seen.holders, *seen.withdrawn_versions()]
    descendants = seen.made_from(gone)
    repeats = sorted(folder for folder in descendants if folder.startswith(REPEATING))
    return [*seen.holders, *(folder for folder in repeats if not seen.is_withdrawn(folder))]


def _withdraw(seen: Holdings, erasure: str, at: str) -> None:
    for folder in _to_withdraw(seen):
        successor = seen.successor(folder) if folder in seen.versions else None
        note = Withdrawal(place=folder, at=at, erasure=erasure, successor=successor)
        withdrawn.write(seen.root, note)


def _notes(seen: Holdings, erasure: str) -> dict[str, str | None]:
    """What an erasure has withdrawn, also before it was broken off, and what takes its place."""
    folders = [folder for folder in seen.outputs if seen.is_withdrawn(folder)]
    notes = side_by_side(withdrawn.read, map(seen.contents.uri, folders))
    return {
        folder: note.successor
        for folder, note in zip(folders, notes, strict=True)
        if note is not None and note.erasure == erasure
    }


def _erasure(
    seen: Holdings, notes: dict[str, str | None], fenced: Sequence[str], applied: bool
) -> Erasure:
    """What a look at the store says."""
    gone = {*seen.holders, *seen.withdrawn_versions()}
    descendants = seen.made_from(gone)
    readers = seen.readers(gone | descendants)
    return Erasure(
        applied,
        seen.posts,
        len(seen.images),
        notes,
        len(seen.dirty_posts) + len(seen.dirty_images),
        len(seen.seen),
        len(side_files(seen)),
        tuple(sorted(fenced)),
        tuple(sorted(attempt for attempt in readers if _is_under_way(seen, attempt, fenced))),
        tuple(sorted(folder for folder in descendants if folder.startswith("models/"))),
        tuple(f"{report}/{REPORT}, signed by {run}" for report, run in decided(seen, descendants)),
    )


def _is_under_way(seen: Holdings, attempt: str, fenced: Sequence[str]) -> bool:
    ended = attempt in seen.commits or f"{attempt}/{commit.ERROR}" in seen.contents.sizes
    return not ended and attempt not in fenced


def _succeed(
    seen: Holdings, head: str, erasure: str, number: int, by: tuple[str, ...] | None
) -> None:
    """Make a version without the posts out of one that holds them; none where nothing is left."""
    uri, name = seen.contents.uri(head), head.split("/")[1]
    old = read_job(store.join(seen.root, seen.attempt_of(head), JOB))
    task = store.join(seen.root, "runs", "manual", erasure, Stage.INGEST, str(number))
    job = Job(
        stage=Stage.INGEST,
        recipe=old.recipe,
        inputs={"previous": uri},
        store=seen.root,
        root=old.root,
        task=task,
        attempt=max(commit.attempts(task), default=0) + 1,
        triggered_by=by,
    )
    write_job(job)
    with tempfile.TemporaryDirectory(prefix="boig-forget-") as folder:
        family, space = f"datasets/{name}", Workspace(job, Path(folder))
        root = store.join(seen.root, family)
        try:
            result = ingestion.ingest(
                None,
                uri,
                job.recipe.data,
                job.recipe.seed,
                root=root,
                scratch=space.scratch,
                crew=ingestion.OneProcess(),
                roots=load_policy().images,
            )
        except ingestion.NothingUsableError as exc:
            log.warning("nothing of %s is left: %s", head, exc.rule)
            commit.fence(job.attempt_uri)
            return
        output = space.publish(
            family, result.folder, kind=dataset.KIND, meta=result.meta, blobs=result.blobs
        )
    commit.commit(job.attempt_uri, {"dataset": output}, result.meta)
    staging.clear(root, result.staged)
