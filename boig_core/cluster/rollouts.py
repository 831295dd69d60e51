"""Rollouts and rewards on Ray: actors pull whole chunks; rewards are computed as trajectories arrive, while others still sample.

A chunk is a pure function of (adapter, chunk), so Ray may run it again: an actor that dies is restarted and redoes its chunk with the
same bits, up to a budget an actor. Only the adapter travels, with version and checksum; each actor opens the base model by itself.
Leaves out: what a rollout is (`boig_core.diffusion.rollout`) and what a reward is (`boig_core.rewards`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import ray
from numpy.typing import NDArray

from boig_core.cluster.actors import RESTARTS, START_S, Watch, options, scorer_options, scorer_resources, settle, wait_ready
from boig_core.config import Recipe
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import Chunk, Findings, Scorer, examine
from boig_core.diffusion.trajectory import Trajectory
from boig_core.errors import ClusterError
from boig_core.rewards.scorer import checked

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

    def __init__(self, recipe: Recipe, before: Callable[[Chunk], None] | None = None) -> None:
        from boig_core.diffusion.rollout import Sampler

        self._before = before
        self._sampler = Sampler(recipe, settle(recipe.resources))

    def ready(self) -> int:
        """Process id, once the model is open."""
        return os.getpid()

    def rollout(self, adapter: Adapter, chunk: Chunk) -> Trajectory:
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
        return self._make(settle(scorer_resources(self._recipe)))

    def ready(self) -> int:
        """Process id, once the models are open."""
        _ = self._scorer
        return os.getpid()

    def score(self, trajectory: Trajectory, chunk: Chunk) -> NDArray[np.float64]:
        """Rewards of a chunk's images."""
        return self._scorer.score(trajectory.images_BHWC, chunk.samples)

    def examine(self, trajectory: Trajectory, chunk: Chunk) -> Findings:
        """All that the scorer can say of a chunk's images."""
        return examine(self._scorer, trajectory.images_BHWC, chunk.samples)


class RayRollouts:
    """`boig_core.diffusion.rollout.Rollouts` over pools of actors. Pickles, so a training worker can drive what the stage owns."""

    def __init__(self, samplers: Sequence[Any], scorers: Sequence[Any], score_s: float) -> None:
        self._samplers, self._scorers, self._score_s = list(samplers), list(scorers), score_s
        self._busy_s = {SAMPLERS: 0.0, SCORERS: 0.0}

    @classmethod
    def start(cls, recipe: Recipe, make_scorer: Callable[[str], Scorer], before: Callable[[Chunk], None] | None = None) -> RayRollouts:
        """Start the actors that the recipe names; they live as long as the calling driver. Returns at once, see `wait_ready`."""
        rollout = ray.remote(RolloutActor).options(**options(recipe.resources))
        reward = ray.remote(RewardActor).options(**scorer_options(recipe))
        return cls(
            [rollout.remote(recipe, before) for _ in range(recipe.ddpo.rollout_actors)],
            [reward.remote(recipe, make_scorer) for _ in range(recipe.reward.actors)],
            recipe.reward.timeout_s,
        )

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until each actor has opened its models.

        Raises:
            ClusterError: they were not placed, or did not start, in time.
        """
        remedy = "add nodes, or lower ddpo.rollout_actors, reward.actors or their resources"
        wait_ready([*self._samplers, *self._scorers], "rollout and reward actors", remedy, timeout_s)

    def stop(self) -> None:
        """End the actors; only their owner, the driver that started them, calls it."""
        for actor in (*self._samplers, *self._scorers):
            ray.kill(actor)

    def idle(self, wall_s: float) -> dict[str, float]:
        """Share of the last ``wall_s`` seconds, in [0, 1], that the actors of each pool had no call; what was counted is forgotten.

        A call counts from being handed out to having ended, and so do the death or the wait for a restart in between.
        """
        pools = {SAMPLERS: self._samplers, SCORERS: self._scorers}
        shares = {f"idle_{name}": max(0.0, 1 - self._busy_s[name] / (len(pool) * wall_s)) for name, pool in pools.items()}
        self._busy_s = dict.fromkeys(pools, 0.0)
        return shares

    def collect(self, adapter: Adapter, chunks: Sequence[Chunk]) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """Trajectory and rewards of each chunk, in the order of ``chunks``.

        Raises:
            ClusterError: an actor died, or hung, more often than is forgiven.
            ScorerError: a scorer gave a wrong count, or a value that is not finite.
            BoigError: whatever a sampler or scorer raised.
        """
        found = self._run(adapter, chunks, "score")
        return [(trajectory, checked(rewards, len(trajectory))) for trajectory, rewards in found]

    def examine(self, adapter: Adapter, chunks: Sequence[Chunk]) -> list[tuple[Trajectory, Findings]]:
        """As `collect`, with all that the scorer can say in place of the rewards; the same errors."""
        found = self._run(adapter, chunks, "examine")
        return [(trajectory, {name: checked(of_N, len(trajectory)) for name, of_N in said.items()}) for trajectory, said in found]

    def _run(self, adapter: Adapter, chunks: Sequence[Chunk], ask: str) -> list[tuple[Trajectory, Any]]:
        """Each chunk's trajectory, and what the reward actors' method ``ask`` said of it."""
        adapter_ref = ray.put(adapter)
        chunk_refs = [ray.put(chunk) for chunk in chunks]
        to_sample, to_score = deque(range(len(chunks))), deque[int]()
        free_samplers, free_scorers = list(self._samplers), list(self._scorers)
        watch, running = Watch(), dict[Any, tuple[int, float]]()
        trajectory_refs: dict[int, Any] = {}
        reward_refs: dict[int, Any] = {}
        while len(reward_refs) < len(chunks):
            while to_sample and free_samplers:
                actor, i = free_samplers.pop(), to_sample.popleft()
                ref = actor.rollout.remote(adapter_ref, chunk_refs[i])
                watch.add(ref, actor, f"rollouts of chunk {i}", ROLLOUT_S)
                running[ref] = i, time.monotonic()
            while to_score and free_scorers:
                actor, i = free_scorers.pop(), to_score.popleft()
                ref = getattr(actor, ask).remote(trajectory_refs[i], chunk_refs[i])
                watch.add(ref, actor, f"rewards of chunk {i}", self._score_s)
                running[ref] = i, time.monotonic()
            ref, actor = watch.next()
            i, began = running.pop(ref)
            self._busy_s[SCORERS if i in trajectory_refs else SAMPLERS] += time.monotonic() - began
            if i not in trajectory_refs:
                trajectory_refs[i] = ref
                to_score.append(i)
                free_samplers.append(actor)
            else:
                reward_refs[i] = ref
                free_scorers.append(actor)
        try:
            trajectories: list[Trajectory] = ray.get([trajectory_refs[i] for i in range(len(chunks))])
            scored = ray.get([reward_refs[i] for i in range(len(chunks))])
        except ray.exceptions.RayActorError as exc:
            raise ClusterError("a rollout or reward actor", f"died more than {RESTARTS} times", "see its log on the Ray dashboard") from exc
        for trajectory in trajectories:
            if trajectory.checksum != adapter.checksum:
                raise ClusterError(f"policy {trajectory.checksum[:12]}", f"is not {adapter.checksum[:12]}", "restart the stage")
        return list(zip(trajectories, scored, strict=True))
