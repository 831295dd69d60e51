"""Rollouts and rewards on Ray: actors pull whole chunks; rewards are computed as trajectories
arrive, while others still sample.

A chunk is a pure function of (adapter, chunk), so a chunk whose actor is lost is done again by
another with the same bits. Results are fetched as they come, so a node that goes takes only what is
under way. Only the adapter travels, with version and checksum; each actor opens the base model by
itself. Leaves out: what a rollout is (`boig_core.diffusion.rollout`) and what a reward is
(`boig_core.rewards`).
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from boig_core.cluster.actors import START_S, Crew, Span, finished, options, scorer_options, settle
from boig_core.cluster.placement import Demand, room
from boig_core.config import Recipe
from boig_core.diffusion.findings import Findings, Scorer, examine
from boig_core.errors import BoigError, ClusterError, ScorerError
from boig_core.observability.progress import Progress, progress_log
from boig_core.rewards.scorer import checked
from boig_core.vocabulary import Sample

if TYPE_CHECKING:  # a scorer's process needs nothing of it, and would take seconds to import it
    from boig_core.diffusion.lora import Adapter
    from boig_core.diffusion.rollout import RolloutChunk, Sampler
    from boig_core.diffusion.trajectory import Trajectory

T = TypeVar("T")

ROLLOUT_S: Final = 1800.0
"""Longest time for the rollouts of a chunk."""
SAMPLERS: Final = "rollout_actors"
SCORERS: Final = "reward_actors"


class RolloutActor:
    """One sampler in a process of its own.

    Args:
        recipe: names the base model and the settings of the sampling.
        before: called with each chunk before it is sampled; tests inject faults here.
    """

    def __init__(
        self, recipe: Recipe, before: Callable[[RolloutChunk], None] | None = None
    ) -> None:
        self._recipe, self._before = recipe, before

    @cached_property
    def _sampler(self) -> Sampler:
        """Opened by a call, not by the constructor, whose errors Ray passes on as text alone."""
        from boig_core.diffusion.rollout import Sampler

        return Sampler(self._recipe, settle(self._recipe.rollout_resources))

    def ready(self) -> int:
        """Process id, once the model is open."""
        _ = self._sampler
        return os.getpid()

    def rollout(self, adapter: Adapter, chunk: RolloutChunk) -> Trajectory:
        """Sample a chunk."""
        if self._before is not None:
            self._before(chunk)
        return self._sampler.rollout(adapter, chunk)


class RewardActor:
    """One scorer in a process of its own.

    Args:
        recipe: names the resources.
        make_scorer: opens the scorer; runs in the actor, given the device.
    """

    def __init__(self, recipe: Recipe, make_scorer: Callable[[str], Scorer]) -> None:
        self._recipe, self._make = recipe, make_scorer

    @cached_property
    def _scorer(self) -> Scorer:
        """Opened by a call, not by the constructor, whose errors Ray passes on as text alone."""
        return self._make(settle(self._recipe.scorer_resources))

    def ready(self) -> int:
        """Process id, once the models are open."""
        _ = self._scorer
        return os.getpid()

    def score(
        self, images_BHWC: NDArray[np.uint8], samples: Sequence[Sample]
    ) -> NDArray[np.float64]:
        """Rewards of a chunk's images.

        Raises:
            ScorerError: what the scorer raised, unless it is boig's own: the data's failure, not
                the cluster's.
        """
        return self._said(lambda scorer: scorer.score(images_BHWC, samples), samples)

    def examine(self, images_BHWC: NDArray[np.uint8], samples: Sequence[Sample]) -> Findings:
        """All that the scorer can say of a chunk's images; raises as `score`."""
        return self._said(lambda scorer: examine(scorer, images_BHWC, samples), samples)

    def _said(self, call: Callable[[Scorer], T], samples: Sequence[Sample]) -> T:
        try:
            return call(self._scorer)
        except BoigError:
            raise
        except Exception as exc:
            raise ScorerError(
                f"the scorer of {len(samples)} images", f"raised {exc!r}", "see the actor's log"
            ) from exc


class RayRollouts:
    """`boig_core.diffusion.rollout.Rollouts` over pools of actors. Pickles, so a training worker
    can drive what the stage owns.

    One call at a time: who has begun something waits for it before the next, or actors would be
    taken for hung that work for another.
    """

    def __init__(self, samplers: Sequence[Any], scorers: Sequence[Any], score_s: float) -> None:
        self._samplers, self._scorers, self._score_s = list(samplers), list(scorers), score_s
        # Kept by the process that drives the actors: a copy that travels to rank 0 does so before
        # there is any span, and fills its own.
        self._spans: dict[str, list[Span]] = {SAMPLERS: [], SCORERS: []}

    @classmethod
    @contextmanager
    def placed(cls, recipe: Recipe, make_scorer: Callable[[str], Scorer]) -> Iterator[RayRollouts]:
        """The actors, once there is room for them and the learner ranks, and placed so that the
        ranks keep theirs; end with the context.

        Raises:
            ClusterError: not all of it fits within `ddpo.placement_s`, or actors did not start.
        """
        ranks = Demand(recipe.ddpo.workers, "learner ranks", recipe.worker_resources)
        actors = [
            Demand(recipe.ddpo.rollout_actors, "rollout actors", recipe.rollout_resources),
            Demand(recipe.reward.actors, "reward actors", recipe.scorer_resources),
        ]
        started: RayRollouts | None = None
        try:
            # The ranks' room is held until all actors have their places, and given back before the
            # context begins: Ray Train then reserves the same room by itself.
            with room(ranks, actors, recipe.ddpo.placement_s):
                started = cls.start(recipe, make_scorer)
                started.wait_placed()
            yield started
        finally:
            # Also actors that did not start in time, and may still wait for a place.
            if started is not None:
                started.stop()

    @classmethod
    def start(
        cls,
        recipe: Recipe,
        make_scorer: Callable[[str], Scorer],
        before: Callable[[RolloutChunk], None] | None = None,
    ) -> RayRollouts:
        """Start the actors that the recipe names; they live as long as the calling driver. Returns
        at once, see `wait_placed`."""
        rollout = ray.remote(RolloutActor).options(**options(recipe.rollout_resources))
        reward = ray.remote(RewardActor).options(**scorer_options(recipe))
        started = cls(
            [rollout.remote(recipe, before) for _ in range(recipe.ddpo.rollout_actors)],
            [reward.remote(recipe, make_scorer) for _ in range(recipe.reward.actors)],
            recipe.reward.timeout_s,
        )
        for actor in started._actors:
            actor.ready.remote()  # models open while other things start
        return started

    @property
    def _actors(self) -> list[Any]:
        return [*self._samplers, *self._scorers]

    def wait_placed(self, timeout_s: float = START_S) -> None:
        """Wait until each actor's process runs on its node; its models may still have to be opened.

        Raises:
            ClusterError: they did not start in time.
        """
        # `ready` would wait for the models too, which may open while the ranks start.
        waiting = [actor.__ray_ready__.remote() for actor in self._actors]
        _, late = ray.wait(waiting, num_returns=len(waiting), timeout=timeout_s)
        if late:
            rule = f"did not start within {timeout_s:g} s"
            raise ClusterError(
                f"{len(late)} of {len(waiting)} rollout and reward actors",
                rule,
                "see the Ray dashboard",
            )

    def stop(self) -> None:
        """End the actors; only their owner, the driver that started them, calls it."""
        for actor in self._actors:
            ray.kill(actor)

    def spent(self, wall_s: float) -> dict[str, float]:
        """How the actors spent the last ``wall_s`` seconds, work that has not ended included; what
        has ended is forgotten.

        Returns:
            ``idle_rollout_actors`` and ``idle_reward_actors``, shares in [0, 1]: an actor is busy
            from when it gets a chunk until that has ended or is lost; ``chunks_redone``, chunks
            that were lost and handed out again, and ``seconds_lost`` with them.
        """
        now, row = time.monotonic(), {"chunks_redone": 0.0, "seconds_lost": 0.0}
        for name, actors in ((SAMPLERS, self._samplers), (SCORERS, self._scorers)):
            spans, busy_s = self._spans[name], 0.0
            # A copy, and each end read once: work that `begin` has started in a thread adds and
            # ends spans meanwhile.
            for span in list(spans):
                ended = span.ended
                # With `ddpo.ahead` work crosses rows: of each span counts what lies in this one.
                busy_s += max(
                    0.0, (now if ended is None else ended) - max(span.began, now - wall_s)
                )
                if ended is not None:
                    spans.remove(span)
                    if span.lost:
                        row["chunks_redone"] += 1
                        row["seconds_lost"] += ended - span.began
            row[f"idle_{name}"] = min(1.0, max(0.0, 1 - busy_s / (len(actors) * wall_s)))
        return row

    def collect(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """Trajectory and rewards of each chunk, in the order of ``chunks``.

        Raises:
            ClusterError: a chunk lost its actor more often than is forgiven, or no actor of a kind
                was there for `START_S`.
            ScorerError: a scorer failed, gave a wrong count, or a value that is not finite.
            BoigError: whatever a sampler or scorer raised.
        """
        results = self._run(adapter, chunks, "score")
        return [(trajectory, checked(rewards, len(trajectory))) for trajectory, rewards in results]

    def begin(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> Callable[[], list[tuple[Trajectory, NDArray[np.float64]]]]:
        """Start what `collect` does, in a thread; the function that comes back waits for it, and
        raises the same errors."""
        collected: Future[list[tuple[Trajectory, NDArray[np.float64]]]] = Future()

        def run() -> None:
            try:
                collected.set_result(self.collect(adapter, chunks))
            # Whatever ends the thread is handed over: else whoever waits for the result waits for
            # ever.
            except BaseException as exc:
                collected.set_exception(exc)

        # A daemon: a training that fails, or that a monitor stops, ends without waiting for it.
        threading.Thread(target=run, name="boig-rollouts", daemon=True).start()
        return collected.result

    def examine(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, Findings]]:
        """As `collect`, with all that the scorer can say in place of the rewards; the same
        errors."""
        results = self._run(adapter, chunks, "examine")
        return [
            (trajectory, {name: checked(of_N, len(trajectory)) for name, of_N in findings.items()})
            for trajectory, findings in results
        ]

    def _run(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk], ask: str
    ) -> list[tuple[Trajectory, Any]]:
        """Each chunk's trajectory, and what the reward actors' method ``ask`` said of it."""
        # New with each call, so that every actor is asked anew whether it is there: some may have
        # been lost, or have come back, since the last one.
        sampling = Crew("rollouts", self._samplers, ROLLOUT_S, self._spans[SAMPLERS])
        scoring = Crew("rewards", self._scorers, self._score_s, self._spans[SCORERS])
        # Once into the object store for all chunks, not once with each call.
        adapter_ref = ray.put(adapter)
        for i, chunk in enumerate(chunks):
            sampling.add(i, functools.partial(_sample, adapter_ref, ray.put(chunk)))
        trajectories: dict[int, Trajectory] = {}
        answers: dict[int, Any] = {}
        # Short epochs have a line of their own and need none of these.
        progress = Progress(
            "images sampled and scored",
            sum(len(chunk.indices) for chunk in chunks),
            progress_log(),
            every_s=30.0,
        )
        for crew, i, result in finished(sampling, scoring):
            if crew is sampling:
                # Before it is scored: images of another policy would be trained on as if they were
                # this one's.
                result.require(adapter.version, adapter.checksum)
                trajectories[i] = result
                # Images go from here to the scorer. A reference to the sampler's result would be
                # shorter, but is lost with the sampler's node, and a whole chunk with it.
                scoring.add(
                    i, functools.partial(_ask, ask, ray.put(result.images_BHWC), chunks[i].samples)
                )
            else:
                answers[i] = result
                progress.add([None] * len(chunks[i].indices))
        return [(trajectories[i], answers[i]) for i in range(len(chunks))]


def _sample(adapter_ref: Any, chunk_ref: Any, actor: Any) -> Any:
    return actor.rollout.remote(adapter_ref, chunk_ref)


def _ask(method: str, images_ref: Any, samples: Sequence[Sample], actor: Any) -> Any:
    return getattr(actor, method).remote(images_ref, samples)
