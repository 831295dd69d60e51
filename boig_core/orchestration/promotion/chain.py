"""The chain behind a candidate, as the store alone tells it: from the candidate and its report,
manifest by manifest, back to the posts.

What an XCom, an event or a param says is only where to begin. Each output must lie in this store,
be committed by a run of this store, be of the right kind and stage, and be made from inputs whose
digests its manifest names. Who triggered the runs stands in their job files, which people who may
write XComs cannot write. Leaves out: the gates (see `gates`) and who may approve (see `approvers`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from boig_core.config.locations import is_below
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit as commits
from boig_core.storage import control, manifest, store, withdrawn
from boig_core.storage.job import JOB, Job, Stage, read_job

_DATASET: Final = ("dataset", (Stage.INGEST, Stage.PERCEIVE))
ROLES: Final[Mapping[str, tuple[str, tuple[Stage, ...]]]] = {
    "previous": _DATASET,
    "retry": _DATASET,
    "dataset": _DATASET,
    "boigllm": ("boigllm", (Stage.FINETUNE_LLM,)),
    "no_kpi": ("boigllm", (Stage.FINETUNE_LLM,)),
    "predictor": ("predictor", (Stage.FINETUNE_LLM,)),
    "judge": ("judge", (Stage.FINETUNE_LLM,)),
    "description": ("description", (Stage.EVALUATE_LLM,)),
    "calibration": ("calibration", (Stage.CALIBRATE,)),
    "high_kpi": ("sd", (Stage.FINETUNE_SD,)),
    "boigsd": ("sd", (Stage.DDPO,)),
    "generation": ("generation", (Stage.EVALUATE_SD,)),
    "report": ("report", (Stage.REPORT,)),
}
"""What an output must be by the name under which a job reads it: its kind, and the stages that make
it."""
ENDS: Final = frozenset({"posts", "period", "runs", "champion"})
"""Inputs at which the chain ends: raw files, and another candidate with a chain of its own."""
_FORMER: Final = frozenset({"previous", "retry"})
"""Inputs from which an ingestion takes over what nobody had forgotten."""
SHARED: Final = ("dataset", "boigllm", "calibration", "predictor")
"""Inputs that the candidate's training, its evaluation and its report must have in common."""


@dataclass(frozen=True)
class Output:
    """An output of the store with the job that made it.

    Attributes:
        uri: its folder.
        manifest: as it was committed.
        digest: of the manifest.
        job: of the attempt that committed it.
    """

    uri: str
    manifest: manifest.Manifest
    digest: str
    job: Job


@dataclass(frozen=True)
class Chain:
    """What the store says of a candidate.

    Attributes:
        candidate: the model, whose job holds the recipe that counts.
        report: its report.
        compared: URI of the champion that the evaluation has compared with; None: with none.
        monitors: line of each monitor that tripped in its training, by name; None: its training has
            reported none.
        triggered_by: each person who triggered a run of the chain, with the first such run.
        unknown: runs of which the store does not say who triggered them.
    """

    candidate: Output
    report: Output
    compared: str | None
    monitors: Mapping[str, str] | None
    triggered_by: Mapping[str, str]
    unknown: tuple[str, ...]


def verify_chain(candidate: str, report: str, root: str) -> Chain:
    """Read a candidate's chain, and verify every link of it.

    Args:
        candidate: URI of the model.
        report: URI of its report.
        root: of the store.

    Raises:
        InputError: a link lies outside of the store or differs from what its manifest names, or the
            report is about another model or was made by another recipe.
        WithdrawnError: the model or its report was made from a post that was forgotten since.
        CorruptError, NotFoundInStoreError: an output or the run that made it cannot be read.
    """
    walk = _Walk(store.normalize(root))
    model, page = walk.follow(candidate, "boigsd"), walk.follow(report, "report")
    evaluation = walk.follow(page.job.input("generation"), "generation")
    # By its place, too: a training that was done twice may give the same bytes, but each has what
    # its monitors saw.
    if (
        evaluation.manifest.lineage.inputs.get("boigsd") != model.digest
        or store.normalize(evaluation.job.input("boigsd")) != model.uri
    ):
        raise InputError(
            page.uri,
            f"is about {evaluation.job.input('boigsd')}, not about {model.uri}",
            "give a model and its own report",
        )
    for part in (evaluation, page):
        _require_same(model, part)
    compared = evaluation.job.inputs.get("champion")
    training = commits.read_commit(model.job.attempt_uri) or {}
    triggers = list(walk.triggers())
    names = {name: run for run, by in triggers for name in by or ()}
    return Chain(
        candidate=model,
        report=page,
        compared=None if compared is None else store.normalize(compared),
        monitors=training.get("metrics", {}).get("monitors"),
        triggered_by=dict(sorted(names.items())),
        unknown=tuple(sorted({run for run, by in triggers if by is None})),
    )


class _Walk:
    """Outputs that were read and verified, each once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._outputs: dict[tuple[str, str], Output] = {}
        self._current: set[str] = set()

    def follow(self, uri: str, role: str) -> Output:
        """An output, after it and all that it was made from have been verified."""
        # Not by recursion: a dataset that grows by the day has a version for each of them.
        waiting: list[tuple[str, str, str | None, bool]] = [(uri, role, None, False)]
        while waiting:
            at, name, digest, former = waiting.pop()
            key = (store.normalize(at), name)
            former = former or name in _FORMER
            if key not in self._outputs:
                self._outputs[key] = output = _read(key[0], name, self.root)
                inputs = output.manifest.lineage.inputs
                waiting += [
                    (where, needed, inputs[needed], former)
                    for needed, where in output.job.inputs.items()
                    if needed not in ENDS
                ]
            # What was trained on a forgotten post is promoted no more; that a version before it
            # held the post is no reason.
            if not former and key[0] not in self._current:
                withdrawn.require_current(key[0])
                self._current.add(key[0])
            if digest is not None and self._outputs[key].digest != digest:
                raise InputError(
                    at,
                    f"differs from the {name} that was read: {self._outputs[key].digest[:12]}, not {digest[:12]}",
                    "restore it, or make what was made from it again",
                )
        return self._outputs[store.normalize(uri), role]

    def triggers(self) -> Iterator[tuple[str, tuple[str, ...] | None]]:
        """Each run with who triggered it, attempts included whose checkpoints a later one may have
        gone on from; None: its job does not say."""
        for output in self._outputs.values():
            job = output.job
            run = "/".join(job.task.removeprefix(self.root).strip("/").split("/")[1:3])
            yield run, job.triggered_by
            for number in range(1, job.attempt):
                earlier = store.join(commits.attempt_uri(job.task, number), JOB)
                try:
                    by = control.read_object(earlier, "a job", "clean it up")["triggered_by"]
                    yield run, None if by is None else tuple(map(str, by))
                except NotFoundInStoreError:
                    continue  # cleaned up, so nothing of it was there to go on from
                except (CorruptError, TypeError, KeyError):
                    yield run, None


def _read(uri: str, role: str, root: str) -> Output:
    """One link, held against its own manifest, commit and job."""
    if role not in ROLES:
        raise InputError(
            f"input {role!r} of a run", "is not known", "promote what boig_sd has made"
        )
    if not is_below(uri, [root]):
        raise InputError(
            uri,
            f"lies outside of the store {root}",
            "promote what boig_sd has made in this store, from what lies in it",
        )
    kind, stages = ROLES[role]
    published = manifest.read_record(uri, kind=kind)
    attempt = published.commit.rsplit("/", 1)[0]
    if not is_below(attempt, [store.join(root, "runs")]):
        raise InputError(
            uri, f"was committed outside of the store, in {attempt}", "make it again in this store"
        )
    job = read_job(store.join(attempt, JOB))
    rule = _broken_rule(published, job, attempt, stages, root)
    if rule is not None:
        raise InputError(uri, rule, "make it again: it is not what its run has made")
    return Output(uri, published, published.digest(), job)


def _broken_rule(
    published: manifest.Manifest, job: Job, attempt: str, stages: tuple[Stage, ...], root: str
) -> str | None:
    """What is wrong between a manifest and the job of its attempt; None: nothing."""
    if store.normalize(job.store) != root or store.normalize(job.attempt_uri) != attempt:
        return f"names a job of another place, {job.attempt_uri}"
    if job.stage not in stages:
        return f"was made by the stage {job.stage.value}, not by {' or '.join(stages)}"
    if published.lineage.inputs.keys() != job.inputs.keys():
        return "names other inputs than its job"
    if job.stage is Stage.INGEST and not job.inputs.keys() & {"posts", "previous", "retry"}:
        return "leads back to no posts"
    # Of the file's own text: a version of boig that knows more fields must get the same digest.
    recipe = control.read_object(store.join(attempt, JOB), "a job", "make it again")["recipe"]
    if recipe_digest(recipe) != published.lineage.recipe:
        return "names another recipe than its job"
    return None


def recipe_digest(recipe: Any) -> str:
    """Digest of a recipe as it was written, which `Recipe.digest` gives of a loaded one."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _require_same(model: Output, part: Output) -> None:
    """Evaluation and report must have used what the training used: else numbers of an easier
    setting could stand for it."""
    ours, theirs = model.manifest.lineage.inputs, part.manifest.lineage.inputs
    for name in SHARED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise InputError(
                part.uri,
                f"was made with another {name} than {model.uri}",
                "run boig_sd again: training, evaluation and report must share it",
            )
    if part.job.recipe != model.job.recipe:
        raise InputError(
            part.uri,
            f"was made by another recipe than {model.uri}",
            "run boig_sd again: training, evaluation and report must share it",
        )
