"""Whatever happens to the attempts of a training one after the other, each reads what it may, and
says so: held against a small model of it, over sequences that hypothesis draws."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.storage import manifest
from boig_core.storage.ancestry import Resume, write_resume
from boig_core.storage.commit import commit
from boig_core.storage.job import Job, Stage, TaskTry, write_job
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.work import work_of

RECIPES = {change: load_recipe("tiny", [*change]) for change in ((), ("sd.lr=1",))}


class Weights:
    """Something with a state: what it was trained by, step by step."""

    def __init__(self) -> None:
        self.history = ""

    def save(self, folder: Path) -> None:
        (folder / "history").write_text(self.history)

    def load(self, folder: Path) -> None:
        self.history = (folder / "history").read_text()


@dataclass(frozen=True)
class Event:
    """How an attempt begins and ends.

    Attributes:
        by: which click or failure it follows.
        change: of the recipe.
        data: name of the dataset.
        code: version of boig.
        saves: how many checkpoints it leaves.
        commits: whether it ends well.
        wished: whether somebody asks by ``boig resume`` that it be gone on from.
    """

    by: str
    change: tuple[str, ...]
    data: str
    code: str
    saves: int
    commits: bool
    wished: bool


def mostly(usual: object, other: object) -> st.SearchStrategy[object]:
    return st.sampled_from([usual, usual, usual, other])


EVENTS = st.builds(
    Event,
    by=st.sampled_from(["retry", "retry", "clear"]),
    change=mostly((), ("sd.lr=1",)),
    data=mostly("one", "two"),
    code=mostly("1.0", "1.1"),
    saves=st.integers(0, 2),
    commits=st.sampled_from([False, False, False, True]),
    wished=st.sampled_from([False, False, True]),
)


@dataclass
class Past:
    """What the model knows of an attempt.

    Attributes:
        event: how it began and ended.
        read: attempts that it might go on from, each with whether it was asked for.
        histories: of its checkpoints by step: what their weights were trained by.
    """

    event: Event
    read: tuple[tuple[int, bool], ...]
    histories: dict[int, str] = field(default_factory=dict)


@dataclass
class Model:
    """What must be read, said forward in time: a set of attempts that each event shrinks or
    grows."""

    past: dict[int, Past] = field(default_factory=dict)
    asked: int | None = None

    def begin(self, event: Event) -> tuple[tuple[int, bool], ...]:
        """Attempts that the next one may read, each with whether it was asked for."""
        last = self.past.get(len(self.past))
        if self.asked is not None:
            return ((self.asked, True), *self.past[self.asked].read)
        if last is None or last.event.commits or event.by == "clear":
            return ()
        return ((len(self.past), False), *last.read)

    def outcome(self, event: Event, read: Sequence[tuple[int, bool]]) -> tuple[str, int, str]:
        """What is to be restored: ``read``, ``refused`` or ``nothing``, the step and history."""
        points = [
            (step, number, asked) for number, asked in read for step in self.past[number].histories
        ]
        for step, number, asked in sorted(points, reverse=True):
            then = self.past[number].event
            same = (then.change, then.data) == (event.change, event.data)
            if same and (then.code == event.code or asked):
                return "read", step, self.past[number].histories[step]
            if asked:
                return "refused", 0, ""
        return "nothing", 0, ""


def job_of(root: str, number: int, event: Event, now: TaskTry) -> Job:
    return Job(
        stage=Stage.FINETUNE_SD,
        recipe=RECIPES[event.change],
        inputs={"dataset": f"/store/datasets/posts/{event.data}"},
        store=root,
        root="boig_sd/one",
        task=f"{root}/runs/boig_sd/one/finetune_sd",
        attempt=number,
        started_by=now,
    )


def attempt(job: Job, event: Event) -> tuple[str, int, Checkpoints, dict[int, str]]:
    """A training that goes on from what it may, and leaves its checkpoints."""
    write_job(job)
    points, weights = Checkpoints.of_job(job), Weights()
    try:
        restored = points.restore(weights, work_of(job.stage, job.recipe, lambda: ""))
    except InputError:
        return "refused", 0, points, {}
    step = restored.step if restored else 0
    begun = weights.history if restored else ""
    histories = {}
    for count in range(1, event.saves + 1):
        weights.history = f"{begun}{event.change}{event.data}{event.code}x{count};"
        histories[step + 10 * count] = weights.history
        points.save(weights, step + 10 * count)
    points.wait()
    if event.commits:
        commit(job.attempt_uri, {}, {})
    return f"read {begun}" if restored else "nothing", step, points, histories


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, min_size=1, max_size=7))
def test_each_attempt_reads_what_the_model_says(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        check(events, root, lambda code: patch.setattr(manifest, "version", lambda _: code))


def check(events: Sequence[Event], root: str, install: Callable[[str], None]) -> None:
    model, tries, limit = Model(), 0, 3
    for event in events:
        if event.by == "clear" and tries:
            limit = tries + 3  # as Airflow sets it
        tries, number = tries + 1, len(model.past) + 1
        install(event.code)
        read = model.begin(event)
        end, step, history = model.outcome(event, read)
        job = job_of(root, number, event, TaskTry(run_after="noon", number=tries, limit=limit))
        told, begun, points, histories = attempt(job, event)
        assert (told, begun) == (f"read {history}" if end == "read" else end, step)
        hops = {(hop.code, hop.step) for hop in points.went_on_from}
        assert all(f"{code}x" in history for code, _ in hops), "lineage names what was done alone"
        assert (len(points.went_on_from) > 0) == (end == "read")
        if points.went_on_from:
            assert points.went_on_from[-1].step == step
            assert points.went_on_from[-1].recipe == job.recipe.digest()
            assert len(points.went_on_from) == history.count(";"), "each hop is one attempt's work"
        event = event if end != "refused" else refused(event)
        model.past[number] = Past(event, read, histories)
        kept = [each for each in model.past if model.past[each].histories]
        model.asked = kept[-1] if event.wished and kept else None
        if model.asked is not None and model.past[model.asked].event.commits:
            model.asked = None
        if model.asked is not None:
            write_resume(job.task, number, Resume(attempt=model.asked, asked_by=("ada",)))


def refused(event: Event) -> Event:
    """An attempt that did not train at all."""
    return Event(event.by, event.change, event.data, event.code, 0, False, event.wished)
