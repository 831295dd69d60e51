"""What the store knows of runs: which there are, how each attempt of each stage ended, and what it logged.

Reads only ``runs/DAG/RUN/TASK[/MAP]/attempt-N/``, so it needs neither Airflow nor Ray; leaves out what only they know, such as whether
the process of an open attempt still lives.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.storage import commit, store

ATTEMPT: Final = re.compile(r"(?P<run>[^/]+/[^/]+)/(?P<task>[^/]+(?:/\d+)?)/attempt-(?P<attempt>\d+)/(?P<file>.+)")
"""A file's path below ``runs/``."""


@dataclass(frozen=True)
class AttemptState:
    """One attempt of one stage.

    Attributes:
        task: ``TASK`` or ``TASK/MAP``.
        attempt: 1 for the first.
        state: ``open`` means running, or dead without a word.
        seconds: from the job file to the end, or until now.
        failure: what ``error.json`` says; none: it left no reason.
        outputs: URI of each output by name.
        last: last row of ``metrics.jsonl``.
        uri: the attempt's folder.
    """

    task: str
    attempt: int
    state: commit.Fate
    seconds: float | None
    failure: commit.Failure | None
    outputs: dict[str, str]
    last: dict[str, Any] | None
    uri: str


def newest_runs(root: str) -> dict[str, float]:
    """Each run of a store, ``DAG/RUN``, with the time at which its last attempt was made (seconds since 1970), newest first."""
    jobs = [(found["run"], path) for path, found in _attempt_files(root, "") if found["file"] == "job.json"]
    times = _times([store.join(root, "runs", path) for _, path in jobs])
    newest: dict[str, float] = {}
    for (run, _), made in zip(jobs, times, strict=True):
        newest[run] = max(newest.get(run, 0.0), made or 0.0)
    return dict(sorted(newest.items(), key=lambda item: -item[1]))


def find_run(root: str, wanted: str) -> str:
    """The run ``DAG/RUN`` that is meant by its name, a part of it that no other has, or ``latest``.

    Raises:
        InputError: none or several; the message names the nearest.
    """
    runs = list(newest_runs(root))
    if wanted == "latest" and runs:
        return runs[0]
    if wanted in runs:
        return wanted
    found = [run for run in runs if wanted in run]
    if len(found) == 1:
        return found[0]
    near = found[:5] or difflib.get_close_matches(wanted, runs, n=3, cutoff=0.3) or runs[:3]
    rule = f"is part of {len(found)} runs" if found else "is no run of this store"
    remedy = f"name one of: {', '.join(near)}" if near else f"{root} holds no runs yet; set BOIG_STORE to the store that does"
    raise InputError(f"run {wanted!r}", rule, remedy)


def run_state(root: str, run: str) -> list[AttemptState]:
    """Every attempt of a run ``DAG/RUN``, by stage in the order in which they began."""
    files: dict[tuple[str, int], set[str]] = {}
    for _, found in _attempt_files(root, run):
        files.setdefault((found["task"], int(found["attempt"])), set()).add(found["file"])
    uris = {key: commit.attempt_uri(store.join(root, "runs", run, key[0]), key[1]) for key in files}
    begun = dict(zip(files, _times([store.join(uri, "job.json") for uri in uris.values()]), strict=True))
    ends = {key: commit.ERROR if commit.ERROR in names else commit.COMMIT for key, names in files.items()}
    ended = dict(zip(files, _times([store.join(uris[key], name) for key, name in ends.items()]), strict=True))
    first: dict[str, float] = {}
    for (task, _), at in begun.items():
        first[task] = min(first.get(task, at or 0.0), at or 0.0)
    order = sorted(files, key=lambda key: (first[key[0]], key))
    return [_attempt_state(key, files[key], uris[key], begun[key], ended[key]) for key in order]


def find_attempt(states: list[AttemptState], run: str, stage: str, attempt: int | None = None) -> AttemptState:
    """An attempt of a stage, the newest unless its number is given.

    Raises:
        InputError: the run has no such stage or attempt.
    """
    of_stage = [state for state in states if state.task == stage]
    if not of_stage:
        raise InputError(f"stage {stage!r}", f"has not begun in {run}", f"name one of: {', '.join(dict.fromkeys(s.task for s in states))}")
    found = [state for state in of_stage if attempt in (None, state.attempt)]
    if not found:
        raise InputError(f"--attempt {attempt}", f"is not there for {stage}", f"use one of: {', '.join(str(s.attempt) for s in of_stage)}")
    return found[-1]


def read_log(attempt: str, after: str = "") -> Iterator[tuple[str, str]]:
    """Chunks of an attempt's log as (name, text), those behind the cursor ``after``, which is the name of the last one read."""
    folder = store.join(attempt, "log")
    for name, _ in store.list_files(folder):
        if name > after:
            yield name, store.read_bytes(store.join(folder, name)).decode(errors="replace")


def follow_log(attempt: str, poll_s: float = 3.0) -> Iterator[str]:
    """Texts of an attempt's log as they come, until the attempt has ended and nothing more came."""
    cursor = ""
    while True:
        ended = commit.fate(attempt) != "open"  # asked first: what is logged up to the end is then read below
        found = list(read_log(attempt, cursor))
        yield from (text for _, text in found)
        if ended and not found:
            return
        cursor = found[-1][0] if found else cursor
        time.sleep(poll_s)


def _attempt_files(root: str, run: str) -> Iterator[tuple[str, re.Match[str]]]:
    for path, _ in store.list_files(store.join(root, "runs", run) if run else store.join(root, "runs")):
        whole = f"{run}/{path}" if run else path
        if found := ATTEMPT.fullmatch(whole):
            yield whole, found


def _times(uris: list[str]) -> list[float | None]:
    """When each file was last written, in seconds since 1970; None for one that is missing."""
    if not uris:
        return []
    files = store.filesystem(uris[0])[0]
    return [None if info.mtime is None else info.mtime.timestamp() for info in files.get_file_info([store.filesystem(u)[1] for u in uris])]


def _attempt_state(key: tuple[str, int], names: set[str], uri: str, begun: float | None, ended: float | None) -> AttemptState:
    fate = commit.fate(uri)
    done = commit.read_commit(uri) or {}
    seconds = done.get("metrics", {}).get("seconds")
    if seconds is None and begun is not None:
        seconds = round(max(0.0, (time.time() if ended is None else ended) - begun), 1)
    failure = commit.read_failure(uri) if fate != "committed" else None
    last = _last_row(uri) if "metrics.jsonl" in names else None
    return AttemptState(*key, fate, seconds, failure, done.get("outputs", {}), last, uri)


def _last_row(uri: str) -> dict[str, Any] | None:
    try:
        rows = store.read_bytes(store.join(uri, "metrics.jsonl")).decode().splitlines()
        row = json.loads(rows[-1]) if rows else None
    except (NotFoundInStoreError, ValueError):  # just being replaced, or cut short: the next look shows it
        return None
    return row if isinstance(row, dict) else None


def status_lines(states: list[AttemptState]) -> Iterator[str]:
    """A run's attempts for a terminal."""
    for state in states:
        kind = "" if state.failure is None else " (user error)" if state.failure.user else " (infrastructure error)"
        word = "open: running, or died without a word" if state.state == "open" else f"{state.state}{kind}"
        yield f"{state.task} · attempt {state.attempt} · {word}" + ("" if state.seconds is None else f" · {state.seconds:.1f} s")
        if state.failure is not None:
            yield f"    {state.failure.type}: {state.failure.message}; {state.failure.remedy}"
        yield from (f"    {name} = {uri}" for name, uri in state.outputs.items())
        if state.last:
            numbers = {name: value for name, value in state.last.items() if name != "time"}
            yield "    last row: " + " · ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
