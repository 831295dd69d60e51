"""Scorers on a real local Ray: what dies or hangs is done again by a fresh actor, what is wrong
ends the work, nothing becomes a zero."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boig_core.cluster import actors
from boig_core.cluster.scoring import score_chunks
from boig_core.config import Recipe, load_recipe
from boig_core.errors import ClusterError, InputError, PolicyError, ScorerError

pytestmark = pytest.mark.usefixtures("ray_cluster")

CHUNKS = [[1.0, 2.0], [3.0, 4.0], [5.0]]


def recipe(actors: int = 1, *more: str) -> Recipe:
    return load_recipe("tiny", [f"reward.actors={actors}", "reward.resources={cpus: 0.25}", *more])


def doubled(chunk: Sequence[float]) -> dict[str, Any]:
    return {"dsg": np.array(chunk) * 2, "pid": np.full(len(chunk), float(os.getpid()))}


def open_doubling(device: str) -> Callable[[Sequence[float]], dict[str, Any]]:
    assert device == "cpu"
    return doubled


def run(settings: Recipe, open_score: Any) -> dict[int, list[float]]:
    return {
        number: values["dsg"].tolist()
        for number, values in score_chunks(settings, open_score, CHUNKS)
    }


RIGHT = {0: [2.0, 4.0], 1: [6.0, 8.0], 2: [10.0]}


def test_actors_pull_chunks_in_an_environment_that_the_policy_names(
    set_policy: Callable[..., None],
) -> None:
    set_policy(runtime_envs={"level": {"env_vars": {"SCORER_LEVEL": "7"}}})

    def open_reading(device: str) -> Any:
        assert os.environ["SCORER_LEVEL"] == "7"
        return open_doubling(device)

    assert run(recipe(2, "reward.runtime_env=level"), open_reading) == RIGHT
    with pytest.raises(PolicyError, match="'other'"):
        run(recipe(2, "reward.runtime_env=other"), open_reading)


def faulty(marker: Path, faults: Sequence[Callable[[], Any]], device: str) -> Any:
    """At its second chunk the scorer does what the next fault does, as long as there are any."""

    def score(chunk: Sequence[float]) -> dict[str, Any]:
        done = len(marker.read_text()) if marker.exists() else 0
        if chunk[0] == 3.0 and done < len(faults):
            with marker.open("a") as file:
                file.write("x")
            return faults[done]() or doubled(chunk)
        return doubled(chunk)

    return score


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    threading.Event().wait()


def test_a_chunk_whose_actor_dies_or_hangs_is_scored_by_a_fresh_one(tmp_path: Path) -> None:
    assert (
        run(
            recipe(1, "reward.timeout_s=6"),
            functools.partial(faulty, tmp_path / "faults", [die, hang]),
        )
        == RIGHT
    )
    assert (tmp_path / "faults").read_text() == "xx"


@pytest.mark.parametrize(
    ("fault", "limit_s", "says"),
    [
        (die, 600, r"scores of chunk 1: lost its actor .*; 1 actors"),
        (hang, 5, r"scores of chunk 1: took longer than 5 s; 1 actors"),
    ],
)
def test_faults_without_end_end_the_work(
    fault: Any, limit_s: float, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "RESTARTS", 0)
    with pytest.raises(ClusterError, match=says):
        run(
            recipe(1, f"reward.timeout_s={limit_s}"),
            functools.partial(faulty, tmp_path / "faults", [fault] * 9),
        )
    assert (tmp_path / "faults").read_text() == "x"


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ({"dsg": np.array([1.0, np.nan])}, "must be finite"),
        ({"dsg": np.array([1.0])}, "1 results of the scorer for 2 inputs"),
    ],
)
def test_a_wrong_result_ends_the_work_and_is_not_tried_again(
    gives: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ScorerError, match=says):
        run(recipe(), functools.partial(faulty, tmp_path / "wrong", [lambda: gives] * 9))
    assert (tmp_path / "wrong").read_text() == "x"


def test_a_model_that_does_not_open_ends_in_its_own_error() -> None:
    def open_broken(device: str) -> Any:
        raise InputError("model", "cannot be opened", "give another")

    with pytest.raises(InputError, match="cannot be opened"):
        run(recipe(), open_broken)
