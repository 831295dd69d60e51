"""Runs of boig_ingest: one turn at a time, each on the newest version, and never back behind what
others have made since."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import InputError
from boig_core.orchestration.planning.intervals import (
    Newest,
    claim,
    find_newest,
    keep_newest,
    last_turn,
    period_after,
)
from boig_core.storage import commit, withdrawn
from boig_core.storage.manifest import Lineage, publish_folder


class State(dict[str, Any]):
    """The state store of an asset."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, number, hour, tzinfo=UTC)


def version(
    root: Path,
    run: str,
    newest: str | None,
    dag: str = "boig_ingest",
    *,
    perceived: bool = True,
    done: bool = True,
) -> str:
    """A version of the dataset ``d`` as a run's ``perceive`` leaves it."""
    uri, attempt = f"{root}/datasets/d/{run}", f"{root}/runs/{dag}/{run}/perceive/attempt-1"
    (root / "made" / run).mkdir(parents=True)
    meta = {"newest": newest, "perceived": perceived}
    lineage = Lineage(inputs={}, recipe="r", code="c")
    publish_folder(
        root / "made" / run,
        uri,
        kind="dataset",
        lineage=lineage,
        commit=f"{attempt}/{commit.COMMIT}",
        meta=meta,
    )
    if done:
        commit.commit(attempt, {"dataset": uri}, {})
    return uri


def no(*_: object) -> bool:
    return False


def test_one_run_at_a_time_has_the_turn_and_the_earliest_comes_first(tmp_path: Path) -> None:
    turns, running = f"{tmp_path}/turns", {"a"}
    assert last_turn(turns) == (0, None)
    assert claim(turns, "a", running.__contains__, no) == 1
    assert claim(turns, "a", running.__contains__, lambda: True) == 1, "a retry keeps its turn"
    assert claim(turns, "b", running.__contains__, no) is None
    running.clear()  # it has ended, or is back in the queue and waits for a run that runs
    assert claim(turns, "c", running.__contains__, lambda: True) is None, (
        "an earlier interval is not done"
    )
    assert claim(turns, "b", running.__contains__, no) == 2
    assert last_turn(turns) == (2, "b")


def test_of_two_that_ask_at_once_one_gets_the_turn(tmp_path: Path) -> None:
    turns = f"{tmp_path}/turns"
    got: list[int | None] = []

    def meanwhile() -> bool:
        got.append(claim(turns, "b", no, no))
        return False

    got.append(claim(turns, "a", no, meanwhile))
    assert got == [1, None]


@pytest.mark.parametrize(
    ("watermark", "since"),
    [
        (day(4, 22), day(2, 22)),  # the day before: what is late in it
        (day(2, 3), day(1, 3) - timedelta(days=1)),  # days were missed: all of them
        (day(9), day(3)),  # an old interval again
        (None, day(3)),  # a version from before it was kept
    ],
)
def test_posts_are_read_from_the_watermark_or_the_intervals_start(
    watermark: datetime | None, since: datetime
) -> None:
    period = period_after(Newest("v", watermark), day(5), day(6), 2.0)
    assert (period.since, period.until) == (since, day(6))
    assert since in period
    assert day(6) not in period
    assert since - timedelta(seconds=1) not in period


def test_the_first_version_takes_all_before_the_intervals_end() -> None:
    period = period_after(None, day(5), day(6), 2.0)
    assert (day(1) in period, day(5, 23) in period, day(6) in period) == (True, True, False)


def test_the_newest_version_is_kept_and_found_again_when_that_was_lost(tmp_path: Path) -> None:
    state, turns = State(), f"{tmp_path}/turns"
    assert find_newest(state, str(tmp_path), "d") is None
    first = version(tmp_path, "day-1", "2026-01-01T20:00:00Z")
    taken = {"turn": [claim(turns, "day-1", no, no), "day-1"], "turns": turns}
    keep_newest(state, taken, first)
    assert find_newest(state, str(tmp_path), "d") == Newest(first, day(1, 20))
    assert state["newest-d"] == {"dataset": first, "watermark": "2026-01-01T20:00:00+00:00"}
    version(tmp_path, "unseen", "2026-01-05T00:00:00Z", perceived=False)
    version(tmp_path, "by-hand", "2026-01-06T00:00:00Z", dag="local")
    version(tmp_path, "torn", "2026-01-07T00:00:00Z", done=False)
    assert find_newest(State(), str(tmp_path), "d") == Newest(first, day(1, 20))
    assert find_newest(
        State({"newest-d": {"dataset": f"{tmp_path}/datasets/d/gone"}}), str(tmp_path), "d"
    ) == Newest(first, day(1, 20))
    assert find_newest(state, str(tmp_path), "other") is None


def test_the_newest_version_is_what_took_the_place_of_a_withdrawn_one(tmp_path: Path) -> None:
    first = version(tmp_path, "day-1", "2026-01-01T20:00:00Z")
    made = version(tmp_path, "made", "2026-01-01T19:00:00Z", dag="manual", perceived=False)
    for successor, newest in (("datasets/d/made", Newest(made, day(1, 19))), (None, None)):
        note = withdrawn.Withdrawal(
            place="datasets/d/day-1", at="2026-01-02", erasure="x", successor=successor
        )
        withdrawn.write(str(tmp_path), note)
        for state in (State({"newest-d": {"dataset": first}}), State()):
            assert find_newest(state, str(tmp_path), "d") == newest


def test_under_a_copied_store_the_newest_version_is_the_copys(tmp_path: Path) -> None:
    state, turns = State(), f"{tmp_path}/first/turns"
    first = version(tmp_path / "first", "day-1", "2026-01-01T20:00:00Z")
    version(tmp_path / "first", "by-hand", "2026-01-02T20:00:00Z", dag="local")
    keep_newest(state, {"turn": [claim(turns, "day-1", no, no), "day-1"], "turns": turns}, first)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    copied = Newest(f"{tmp_path}/copy/datasets/d/day-1", day(1, 20))
    assert find_newest(state, f"{tmp_path}/copy", "d") == copied
    assert find_newest(State(), f"{tmp_path}/copy", "d") == copied


def test_a_run_that_was_overtaken_announces_nothing(tmp_path: Path) -> None:
    state, turns = State(), f"{tmp_path}/turns"
    taken = [
        {"turn": [claim(turns, run, no, no), run], "turns": turns} for run in ("day-1", "day-2")
    ]
    second = version(tmp_path, "day-2", "2026-01-02T20:00:00Z")
    keep_newest(state, taken[1], second)
    with pytest.raises(
        InputError,
        match=r"turn 1 of this run: is over: day-2 came next.*clear the run from its task turn on",
    ):
        keep_newest(state, taken[0], version(tmp_path, "day-1", "2026-01-01T20:00:00Z"))
    assert find_newest(state, str(tmp_path), "d") == Newest(second, day(2, 20))
