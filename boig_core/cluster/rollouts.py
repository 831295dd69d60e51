"""Rollouts and rewards on Ray: actors pull whole chunks; rewards are computed as trajectories arrive, while others still sample.

A chunk is a pure function of (adapter, chunk), so Ray may run it again: an actor that dies is restarted and redoes its chunk with the
same bits, up to a budget an actor. Only the adapter travels, with version and checksum; each actor opens the base model by itself.
Leaves out: what a rollout is (`boig_core.diffusion.rollout`) and what a reward is (`boig_core.rewards`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import ray
from numpy.typing import NDArray

from boig_core.config import Recipe, Resources
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import Chunk, Scorer
from boig_core.diffusion.trajectory import Trajectory
from boig_core.errors import ClusterError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

RESTARTS: Final = 3
"""Deaths of an actor, and repetitions of a chunk on it, that are forgiven."""
START_S: Final = 600.0
"""Longest wait for the actors to be placed and to open their models."""
STALL_S: Final = 1800.0
"""Longest time without any chunk finishing, before the stage gives up."""


class RolloutActor:
    """One sampler in a process of its own.

    Args:
        recipe: names the base model and the settings of the sampling.
        before: called with each chunk before it is sampled; tests inject faults here.
    """

    def __init__(self, recipe: Recipe, before: Callable[[Chunk], None] | None = None) -> None:
        from boig_core.diffusion.rollout import Sampler

        self._before = before
        self._sampler = Sampler(recipe, _settle(recipe.resources))

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
        self._scorer = make_scorer(_settle(recipe.resources))

    def ready(self) -> int:
        """Process id, once the models are open."""
        return os.getpid()

    def score(self, trajectory: Trajectory, chunk: Chunk) -> NDArray[np.float64]:
        """Rewards of a chunk's images."""
        return self._scorer.score(trajectory.images_BHWC, chunk.samples)


class RayRollouts:
    """`boig_core.diffusion.rollout.Rollouts` over pools of actors. Pickles, so a training worker can drive what the stage owns."""

    def __init__(self, samplers: Sequence[Any], scorers: Sequence[Any]) -> None:
        self._samplers, self._scorers = list(samplers), list(scorers)

    @classmethod
    def start(cls, recipe: Recipe, make_scorer: Callable[[str], Scorer], before: Callable[[Chunk], None] | None = None) -> RayRollouts:
        """Start the actors that the recipe names; they live as long as the calling driver. Returns at once, see `wait_ready`."""
        options: dict[str, Any] = {
            "num_cpus": recipe.resources.cpus,
            "num_gpus": recipe.resources.gpus,
            "max_restarts": RESTARTS,
            "max_task_retries": RESTARTS,
        }
        rollout, reward = ray.remote(RolloutActor), ray.remote(RewardActor)
        return cls(
            [rollout.options(**options).remote(recipe, before) for _ in range(recipe.ddpo.rollout_actors)],
            [reward.options(**options).remote(recipe, make_scorer) for _ in range(recipe.ddpo.reward_actors)],
        )

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until each actor has opened its models.

        Raises:
            ClusterError: they were not placed, or did not start, in time.
        """
        actors = [*self._samplers, *self._scorers]
        try:
            ray.get([actor.ready.remote() for actor in actors], timeout=timeout_s)
        except ray.exceptions.GetTimeoutError as exc:
            available = ray.available_resources()
            raise ClusterError(
                f"{len(actors)} rollout and reward actors",
                f"did not start within {timeout_s:.0f} s (free: {available.get('CPU', 0)} CPU, {available.get('GPU', 0)} GPU)",
                "add nodes, or lower ddpo.rollout_actors, ddpo.reward_actors or resources",
            ) from exc

    def stop(self) -> None:
        """End the actors; only their owner, the driver that started them, calls it."""
        for actor in (*self._samplers, *self._scorers):
            ray.kill(actor)

    def collect(self, adapter: Adapter, chunks: Sequence[Chunk]) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """Trajectory and rewards of each chunk, in the order of ``chunks``.

        Raises:
            ClusterError: an actor died more often than its budget allows, or nothing finished for `STALL_S`.
            BoigError: whatever a sampler or scorer raised.
        """
        adapter_ref = ray.put(adapter)
        chunk_refs = [ray.put(chunk) for chunk in chunks]
        to_sample, to_score = deque(range(len(chunks))), deque[int]()
        free_samplers, free_scorers = list(self._samplers), list(self._scorers)
        running: dict[Any, tuple[int, Any]] = {}  # reference of a result -> (chunk, actor)
        trajectory_refs: dict[int, Any] = {}
        reward_refs: dict[int, Any] = {}
        while len(reward_refs) < len(chunks):
            while to_sample and free_samplers:
                actor, i = free_samplers.pop(), to_sample.popleft()
                running[actor.rollout.remote(adapter_ref, chunk_refs[i])] = (i, actor)
            while to_score and free_scorers:
                actor, i = free_scorers.pop(), to_score.popleft()
                running[actor.score.remote(trajectory_refs[i], chunk_refs[i])] = (i, actor)
            done, _ = ray.wait(list(running), num_returns=1, timeout=STALL_S, fetch_local=False)
            if not done:
                raise ClusterError("rollouts", f"no chunk finished for {STALL_S:.0f} s", "see the actors' logs on the Ray dashboard")
            i, actor = running.pop(done[0])
            if i not in trajectory_refs:
                trajectory_refs[i] = done[0]
                to_score.append(i)
                free_samplers.append(actor)
            else:
                reward_refs[i] = done[0]
                free_scorers.append(actor)
        try:
            trajectories: list[Trajectory] = ray.get([trajectory_refs[i] for i in range(len(chunks))])
            rewards: list[NDArray[np.float64]] = ray.get([reward_refs[i] for i in range(len(chunks))])
        except ray.exceptions.RayActorError as exc:
            raise ClusterError("a rollout or reward actor", f"died more than {RESTARTS} times", "see its log on the Ray dashboard") from exc
        for trajectory in trajectories:
            if trajectory.checksum != adapter.checksum:
                raise ClusterError(f"policy {trajectory.checksum[:12]}", f"is not {adapter.checksum[:12]}", "restart the stage")
        return list(zip(trajectories, rewards, strict=True))


def _settle(resources: Resources) -> str:
    """Fix the thread count, on which the last bits depend, and name the device."""
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    return "cuda" if resources.gpus > 0 and torch.cuda.is_available() else "cpu"
