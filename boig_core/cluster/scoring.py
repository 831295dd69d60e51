"""Scoring on Ray: a pool of actors that pull whole chunks of images, each with the models of the
reward open.

What scores a chunk runs without Ray too (`boig_core.rewards.batch`). An actor that dies or hangs is
replaced and its chunk scored again, a bounded number of times; a wrong count or a value that is not
finite ends the stage. No failure becomes a number. Leaves out: rollouts, whose images are scored as
they arrive (see `rollouts`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from boig_core.cluster.actors import Crew, finished, scorer_options, settle
from boig_core.config import Recipe
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
        return self._open(settle(self._recipe.scorer_resources))

    def ready(self) -> int:
        """Process id, once the models are open."""
        _ = self._score
        return os.getpid()

    def score(self, chunk: Sequence[Any]) -> Values:
        """Values of a chunk."""
        return self._score(chunk)


def score_chunks(
    recipe: Recipe, open_score: Callable[[str], Score], chunks: Sequence[Sequence[Any]]
) -> Iterator[tuple[int, Values]]:
    """Score chunks on `reward.actors` actors, which end with this iterator. Ray must be connected.

    Args:
        recipe: names actors, their resources and the longest time for a chunk.
        open_score: opens a scorer; runs in the actor.
        chunks: items that ``open_score``'s result understands.

    Yields:
        Number of a chunk and its values, as they come.

    Raises:
        ClusterError: a chunk lost its actor more often than is forgiven, or no actor was there for
            `actors.START_S`.
        ScorerError: a wrong count, or a value that is not finite.
        BoigError: whatever a scorer raised.
    """
    actor_class = ray.remote(ScoreActor).options(**scorer_options(recipe))
    # No more actors than chunks: one without work would open its models for nothing.
    actors = [
        actor_class.remote(recipe, open_score)
        for _ in range(min(recipe.reward.actors, len(chunks)))
    ]
    try:
        crew = Crew("scores", actors, recipe.reward.timeout_s)
        for number, chunk in enumerate(chunks):
            crew.add(number, functools.partial(_score, chunk))
        for _, number, values in finished(crew):
            yield (
                number,
                {name: checked(of_N, len(chunks[number])) for name, of_N in values.items()},
            )
    finally:
        # Reached as well when the reader of this iterator stops early.
        for actor in actors:
            ray.kill(actor)


def _score(chunk: Sequence[Any], actor: Any) -> Any:
    return actor.score.remote(chunk)
