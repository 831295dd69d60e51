"""What the store knows of runs: which there are, how each attempt of each stage ended, and what it
logged.

Reads only ``runs/DAG/RUN/TASK[/MAP]/attempt-N/``, so it needs neither Airflow nor Ray; leaves out
what only they know, such as whether the process of an open attempt still lives.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from boig_core.errors import InputError, NotFoundInStoreError, UserError
from boig_core.escapes import visible
from boig_core.observability.tables import broken
from boig_core.storage import commit, store, usage
from boig_core.storage.job import Job, Stage, read_job
from boig_core.storage.stage import log_chunk

ATTEMPT: Final = re.compile(
    r"(?P<run>[^/]+/[^/]+)/(?P<task>[^/]+(?:/\d+)?)/attempt-(?P<attempt>\d+)/(?P<file>.+)"
)
"""A file's path below ``runs/``."""
DECISION: Final = "decision.json"
"""File of a run in which a person decided on a promotion."""


@dataclass(frozen=True)
class AttemptState:
    """One attempt of one stage.

    Attributes:
        task: ``TASK`` or ``TASK/MAP``.
        attempt: 1 for the first.
        state: ``open`` means running, or dead without a word.
        seconds: from the job file to the end, or until now.
        gpu_hours: at most, see `usage`; None: not known.
        idle: share of these in which GPUs waited for others; None: not known.
        failure: what ``error.json`` says; None: it left no reason.
        outputs: URI of each output by name.
        last: last row of ``metrics.jsonl``.
        uri: the attempt's folder.
    """

    task: str
    attempt: int
    state: commit.Fate
    seconds: float | None
    gpu_hours: float | None
    idle: float | None
    failure: commit.Failure | None
    outputs: dict[str, str]
    last: dict[str, Any] | None
    uri: str


def newest_runs(root: str) -> dict[str, float]:
    """Each run of a store, ``DAG/RUN``, with the time at which its last attempt was made (seconds
    since 1970), newest first."""
    jobs = [
        (file["run"], path) for path, file in _attempt_files(root, "") if file["file"] == "job.json"
    ]
    times = _times([store.join(root, "runs", path) for _, path in jobs])
    newest: dict[str, float] = {}
    for (run, _), written in zip(jobs, times, strict=True):
        # A job file that was removed since the listing has no time.
        newest[run] = max(newest.get(run, 0.0), written or 0.0)
    return dict(sorted(newest.items(), key=lambda item: -item[1]))


def find_run(root: str, wanted: str) -> str:
    """The run ``DAG/RUN`` that is meant by its name, a part of it that no other has, or ``latest``.

    Raises:
        InputError: none or several; the message names the nearest.
    """
    runs = list(newest_runs(root))
    if wanted == "latest" and runs:
        return runs[0]
    # The whole name first: it may be a part of another run's name, too.
    if wanted in runs:
        return wanted
    matches = [run for run in runs if wanted in run]
    if len(matches) == 1:
        return matches[0]
    near = matches[:5] or difflib.get_close_matches(wanted, runs, n=3, cutoff=0.3) or runs[:3]
    rule = f"is part of {len(matches)} runs" if matches else "is no run of this store"
    remedy = (
        f"name one of: {', '.join(near)}"
        if near
        else f"{root} holds no runs yet; set BOIG_STORE to the store that does"
    )
    raise InputError(f"run {wanted!r}", rule, remedy)


def run_state(root: str, run: str) -> list[AttemptState]:
    """Every attempt of a run ``DAG/RUN``, by stage in the order in which they began."""
    files: dict[tuple[str, int], set[str]] = {}
    for _, file in _attempt_files(root, run):
        files.setdefault((file["task"], int(file["attempt"])), set()).add(file["file"])
    uris = {key: commit.attempt_uri(store.join(root, "runs", run, key[0]), key[1]) for key in files}
    begun = dict(
        zip(files, _times([store.join(uri, "job.json") for uri in uris.values()]), strict=True)
    )
    # error.json before commit.json: a failed attempt is fenced when the next one starts, maybe
    # hours later, and the fence says nothing of when this one ended.
    ends = {
        key: commit.ERROR if commit.ERROR in names else commit.COMMIT
        for key, names in files.items()
    }
    ended = dict(
        zip(files, _times([store.join(uris[key], name) for key, name in ends.items()]), strict=True)
    )
    # By the first attempt of each stage: a late retry does not move its stage behind others.
    first: dict[str, float] = {}
    for (task, _), at in begun.items():
        first[task] = min(first.get(task, at or 0.0), at or 0.0)
    order = sorted(files, key=lambda key: (first[key[0]], key))
    return [_attempt_state(key, files[key], uris[key], begun[key], ended[key]) for key in order]


def find_attempt(
    states: list[AttemptState], run: str, stage: str, attempt: int | None = None
) -> AttemptState:
    """An attempt of a stage, the newest unless its number is given.

    Raises:
        InputError: the run has no such stage or attempt.
    """
    of_stage = [state for state in states if state.task == stage]
    if not of_stage:
        raise InputError(
            f"stage {stage!r}",
            f"has not begun in {run}",
            f"name one of: {', '.join(dict.fromkeys(s.task for s in states))}",
        )
    matches = [state for state in of_stage if attempt in (None, state.attempt)]
    if not matches:
        raise InputError(
            f"--attempt {attempt}",
            f"is not there for {stage}",
            f"use one of: {', '.join(str(s.attempt) for s in of_stage)}",
        )
    return matches[-1]


def read_log(attempt: str, after: str = "") -> Iterator[tuple[str, str]]:
    """Chunks of an attempt's log as (name, text), those behind the cursor ``after``, which is the
    name of the last one read.

    Each is asked for by its number: a look for new ones costs one request, and as little after a
    day of logging as at first.
    """
    number = int(after.removesuffix(".txt") or 0)
    while True:
        number += 1
        name = log_chunk(number)
        try:
            chunk = store.read_bytes(store.join(attempt, "log", name))
        except NotFoundInStoreError:
            return
        # Whoever wrote it: a store has many writers.
        yield name, visible(chunk.decode(errors="replace"))


def follow_log(attempt: str, poll_s: float = 3.0) -> Iterator[str]:
    """Texts of an attempt's log as they come, until the attempt has ended and nothing more came."""
    cursor = ""
    while True:
        # Asked first: what is logged up to the end is then read below.
        ended = commit.fate(attempt) != "open"
        lines = list(read_log(attempt, cursor))
        yield from (text for _, text in lines)
        if ended and not lines:
            return
        cursor = lines[-1][0] if lines else cursor
        time.sleep(poll_s)


def _attempt_files(root: str, run: str) -> Iterator[tuple[str, re.Match[str]]]:
    for path, _ in store.list_files(
        store.join(root, "runs", run) if run else store.join(root, "runs")
    ):
        whole = f"{run}/{path}" if run else path
        if match := ATTEMPT.fullmatch(whole):
            yield whole, match


def _times(uris: list[str]) -> list[float | None]:
    """When each file was last written, in seconds since 1970; None for one that is missing."""
    if not uris:
        return []
    files = store.filesystem(uris[0])[0]
    return [
        None if info.mtime is None else info.mtime.timestamp()
        for info in files.get_file_info([store.filesystem(u)[1] for u in uris])
    ]


def _attempt_state(
    key: tuple[str, int], names: set[str], uri: str, begun: float | None, ended: float | None
) -> AttemptState:
    fate = commit.fate(uri)
    done = commit.read_commit(uri) or {}
    # What the stage has measured itself leaves out the wait for a place on the cluster, which the
    # times of files hold; these are for attempts without a commit.
    seconds = done.get("metrics", {}).get("seconds")
    if seconds is None and begun is not None:
        seconds = round(max(0.0, (time.time() if ended is None else ended) - begun), 1)
    failure = commit.read_failure(uri) if fate != "committed" else None
    rows = _rows(uri) if "metrics.jsonl" in names else []
    job = _job(uri) if "job.json" in names else None
    hours = None if job is None else usage.gpu_hours(job.stage, job.recipe, seconds)
    idle = None if job is None or not hours else _idle(job, rows)
    return AttemptState(
        *key,
        fate,
        seconds,
        hours,
        idle,
        failure,
        done.get("outputs", {}),
        rows[-1] if rows else None,
        uri,
    )


def _job(attempt: str) -> Job | None:
    try:
        return read_job(store.join(attempt, "job.json"))
    except UserError:  # written by another version of boig: the rest of its state can still be told
        return None


def _rows(uri: str) -> list[dict[str, Any]]:
    try:
        lines = store.read_bytes(store.join(uri, "metrics.jsonl")).decode().splitlines()
        rows = [json.loads(line) for line in lines]
    except (
        NotFoundInStoreError,
        ValueError,
    ):  # just being replaced, or cut short: the next look shows it
        return []
    return [row for row in rows if isinstance(row, dict)]


def _idle(job: Job, rows: list[dict[str, Any]]) -> float | None:
    """Idle shares of ddpo's learner and pools, as its rows have them: by seconds of the epochs and
    GPUs of each."""
    if job.stage != Stage.DDPO:
        return None
    gpus, waited, available = usage.ddpo_gpus(job.recipe), 0.0, 0.0
    for row in rows:
        seconds = sum(
            row.get(f"seconds_{name}") or 0.0 for name in ("probe", "rollouts", "update", "between")
        )
        waited += seconds * sum(
            count * (row.get(f"idle_{who}") or 0.0) for who, count in gpus.items()
        )
        available += seconds * sum(gpus.values())
    return round(waited / available, 3) if available else None


def summarize(run: str, states: list[AttemptState]) -> dict[str, Any]:
    """What a run has used, failed attempts too: by stage and in all.

    Returns:
        ``{"run", "stages": {TASK: {"attempts", "seconds", "gpu_hours", "cost", "idle"}}, "seconds",
        "gpu_hours", "cost"}``; null: not known.

    Raises:
        InputError: the price of a GPU-hour is no number.
    """
    per_hour = usage.price()

    def spent(states: list[AttemptState]) -> dict[str, Any]:
        # One gap makes the sum unknown: without it, the sum would pass for the whole.
        hours = (
            None
            if any(state.gpu_hours is None for state in states)
            else round(sum(state.gpu_hours or 0.0 for state in states), 4)
        )
        cost = None if per_hour is None or hours is None else round(hours * per_hour, 2)
        return {
            "seconds": round(sum(state.seconds or 0.0 for state in states), 1),
            "gpu_hours": hours,
            "cost": cost,
        }

    stages = {}
    for task in dict.fromkeys(state.task for state in states):
        own = [state for state in states if state.task == task]
        # Of the newest attempt alone: shares of several attempts do not add up.
        stages[task] = {"attempts": len(own), **spent(own), "idle": own[-1].idle}
    return {"run": run, "stages": stages, **spent(states)}


def summary_line(summary: dict[str, Any]) -> str:
    """The whole of a summary in a line."""
    unknown = [task for task, stage in summary["stages"].items() if stage["gpu_hours"] is None]
    hours = (
        f"GPU-hours not known for {', '.join(unknown)}"
        if unknown
        else f"at most {summary['gpu_hours']:.2f} GPU-hours"
    )
    cost = "" if summary["cost"] is None else f" · cost at most {summary['cost']:.2f}"
    idle = "".join(
        f" · {task}: GPUs idle {stage['idle']:.0%}"
        for task, stage in summary["stages"].items()
        if stage["idle"] is not None
    )
    return f"in all {summary['seconds']:.0f} s · {hours}{cost}{idle}"


def folded(line: str, width: int = 80) -> list[str]:
    """A line of parts as lines of at most ``width``, broken between parts; a longer part stays
    whole."""
    parts = line.split(" · ")
    rows = [parts[0]]
    for number, part in enumerate(parts[1:], 2):
        # The last part needs no room for the ` ·` that ends a line with more to come.
        room = width - (0 if number == len(parts) else len(" ·"))
        if len(rows[-1]) + len(" · ") + len(part) <= room:
            rows[-1] += f" · {part}"
        else:
            rows[-1] += " ·"
            rows.append(" " * 8 + part)
    return rows


def status_lines(states: list[AttemptState]) -> Iterator[str]:
    """A run's attempts for a terminal."""
    for state in states:
        kind = (
            ""
            if state.failure is None
            else " (user error)"
            if state.failure.user
            else " (infrastructure error)"
        )
        word = (
            "open: running, or died without a word"
            if state.state == "open"
            else f"{state.state}{kind}"
        )
        yield f"{state.task} · attempt {state.attempt} · {word}" + (
            "" if state.seconds is None else f" · {state.seconds:.1f} s"
        )
        if state.failure is not None:
            yield from broken(
                f"{state.failure.type}: {state.failure.message}; {state.failure.remedy}",
                indent="    ",
            )
        yield from (f"    {name} = {uri}" for name, uri in state.outputs.items())
        if state.last:
            numbers = {name: value for name, value in state.last.items() if name != "time"}
            measured = {name: value for name, value in numbers.items() if value is not None}
            yield from folded(
                "    last row: "
                + " · ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in measured.items()
                )
            )
            if gaps := [name for name in numbers if name not in measured]:
                yield from folded("    not measured in it: " + " · ".join(gaps))
