"""Scoring on Ray: a pool of actors that pull whole chunks of images, each with the models of the reward open.

What scores a chunk runs without Ray too (`boig_core.rewards.batch`). An actor that dies or hangs is replaced and its chunk scored again, a
bounded number of times; a wrong count or a value that is not finite ends the stage. No failure becomes a number. Leaves out: rollouts,
whose images are scored as they arrive (see `rollouts`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from boig_core.cluster.actors import RESTARTS, Watch, scorer_options, scorer_resources, settle, wait_ready
from boig_core.config import Recipe
from boig_core.errors import ClusterError
from boig_core.rewards.scorer import checked

Values = Mapping[str, NDArray[np.float64]]
Score = Callable[[Sequence[Any]], Values]
"""A chunk's images to values by name, each (N,)."""


class ScoreActor:
    """One scorer in a process of its own; ``open_score`` opens it there, given the device."""

    def __init__(self, recipe: Recipe, open_score: Callable[[str], Score]) -> None:
        self._recipe, self._open = recipe, open_score

    @cached_property
    def _score(self) -> Score:
        """Opened by a call, not by the constructor, whose errors Ray passes on as text alone."""
        return self._open(settle(scorer_resources(self._recipe)))

    def ready(self) -> int:
        """Process id, once the models are open."""
        _ = self._score
        return os.getpid()

    def score(self, chunk: Sequence[Any]) -> Values:
        """Values of a chunk."""
        return self._score(chunk)


def score_chunks(recipe: Recipe, open_score: Callable[[str], Score], chunks: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Values]]:
    """Score chunks on `reward.actors` actors, which end with this iterator. Ray must be connected.

    Args:
        recipe: names actors, their resources and the longest time for a chunk.
        open_score: opens a scorer; runs in the actor.
        chunks: items that ``open_score``'s result understands.

    Yields:
        Number of a chunk and its values, as they come.

    Raises:
        ClusterError: actors did not start, died or hung more often than is forgiven.
        ScorerError: a wrong count, or a value that is not finite.
        BoigError: whatever a scorer raised.
    """
    actor_class = ray.remote(ScoreActor).options(**scorer_options(recipe))
    actors = [actor_class.remote(recipe, open_score) for _ in range(min(recipe.reward.actors, len(chunks)))]
    try:
        wait_ready(actors, "scorers", "add nodes, or lower reward.actors or reward.resources")
        watch, running, waiting = Watch(), dict[Any, int](), iter(enumerate(chunks))

        def feed(actor: Any) -> None:
            for number, chunk in waiting:
                ref = actor.score.remote(chunk)
                running[ref] = number
                watch.add(ref, actor, f"chunk {number} of {len(chunks)}", recipe.reward.timeout_s)
                return

        for actor in actors:
            feed(actor)
        while running:
            ref, actor = watch.next()
            number = running.pop(ref)
            values: Values = ray.get(ref)
            feed(actor)
            yield number, {name: checked(of_N, len(chunks[number])) for name, of_N in values.items()}
    except ray.exceptions.RayActorError as exc:
        raise ClusterError("a scorer", f"died more than {RESTARTS} times", "see its log on the Ray dashboard") from exc
    finally:
        for actor in actors:
            ray.kill(actor)
