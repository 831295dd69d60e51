"""Nodes of a Ray cluster that go, come late or have no room, while DDPO runs: at counted points of
the work, never after a sleep.

A process at such a point writes down its node and waits; a thread of the test takes that node away,
as when a machine goes down, and adds another of its kind. Whatever goes, the weights that come out
are those of an undisturbed run in one process, to the bit.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from ray.core.generated import autoscaler_pb2

from boig_core.cluster import actors, train
from boig_core.cluster.placement import Demand, actor_options, room
from boig_core.cluster.rollouts import RayRollouts
from boig_core.cluster.train import run_training
from boig_core.config import Recipe, Resources, load_recipe
from boig_core.errors import ClusterError
from boig_core.storage import store
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.vocabulary import Sample
from tests.clusters import cluster_of_nodes
from tests.faults.nodes import Nodes, nothing

# functions import what needs diffusers: a scorer's process that imports this module shall start
# soon
if TYPE_CHECKING:
    from boig_core.diffusion.lora import Adapter
    from boig_core.diffusion.rollout import RolloutChunk

POOLS = ("rollouts", "rewards", "learner")
SETTINGS = (
    "ddpo.epochs=5",
    "ddpo.prompts=3",
    "ddpo.images_per_prompt=2",
    "ddpo.sampling_steps=4",
    "ddpo.window=2",
    "ddpo.chunk=2",
    "ddpo.micro_batch=2",
    "ddpo.updates=1",
    "ddpo.lora_rank=4",
    "ddpo.checkpoint_every=1",
    "ddpo.rollout_actors=1",
    "ddpo.rollout_resources={cpus: 1, labels: {pool: rollouts}}",
    "reward.resources={cpus: 1, labels: {pool: rewards}}",
    "ddpo.worker_resources={cpus: 1, labels: {pool: learner}}",
)
SAMPLES = [
    Sample(
        f"s{i}", f"p{i}", "a", "c", "2020", f"a {word} ball", (), 1, 95, "high", "train", "0", 8, 8
    )
    for i, word in enumerate(("red", "green", "blue"))
]


def recipe_with(*more: str) -> Recipe:
    return load_recipe("tiny", [*SETTINGS, *more])


class Warmth:
    """Red minus blue; ``before`` is called with the number of each call of this scorer."""

    def __init__(self, before: Callable[[int], None], device: str) -> None:
        self.before, self.calls = before, 0

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        self.calls += 1
        self.before(self.calls)
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2)) / 255


def strike(folder: Path, name: str) -> bool:
    """Tell the test this process's node, once for each name; says whether it is the first time."""
    struck = folder / f"{name}.struck"
    if struck.exists():
        return False
    struck.with_suffix(".new").write_text(ray.get_runtime_context().get_node_id())
    struck.with_suffix(".new").rename(struck)  # whole, for who waits for it
    return True


def lose_node(folder: Path, name: str) -> None:
    """Have this process's node taken away, the first time; waits for it."""
    if strike(folder, name):
        threading.Event().wait()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without CPUs, which holds the driver alone, and a node a pool."""
    torch.set_num_threads(1)
    with cluster_of_nodes() as cluster:
        result = Nodes(cluster)
        for pool in POOLS:
            result.add(pool)
        yield result


def learn(config: dict[str, Any]) -> tuple[Adapter, dict[int, float]]:
    """One learner, with ``before_step`` and ``before_upload`` called at these points; weights, and
    rewards of its epochs."""
    from boig_core.diffusion.learner import Learner

    engine_step, upload = Engine.step, store.upload_file
    rewards: dict[int, float] = {}

    def step(engine: Engine, losses: Any) -> Any:
        config["before_step"](engine.steps_done)
        return engine_step(engine, losses)

    def upload_file(local: Path, uri: str, **options: Any) -> None:
        config["before_upload"](uri)
        upload(local, uri, **options)

    Engine.step, store.upload_file = step, upload_file  # type: ignore[method-assign]
    checkpoints = Checkpoints(str(config["folder"]), 1)
    learner = Learner(
        config["recipe"],
        SAMPLES,
        config["rollouts"],
        checkpoints,
        lambda epoch, values: rewards.update({epoch: values["reward"]}),
    )
    return learner.fit(), rewards


@pytest.fixture(scope="module")
def calm(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    """Checksum of the weights, and rewards by epoch, of a run in one process that no one
    disturbs."""
    from boig_core.diffusion.learner import Learner
    from boig_core.diffusion.rollout import LocalRollouts, Sampler

    recipe = recipe_with()
    rewards: list[float] = []
    rollouts = LocalRollouts(Sampler(recipe), Warmth(nothing, "cpu"))
    checkpoints = Checkpoints(str(tmp_path_factory.mktemp("calm")), 1)
    adapter = Learner(
        recipe, SAMPLES, rollouts, checkpoints, lambda _, values: rewards.append(values["reward"])
    ).fit()
    return adapter.checksum, rewards


def lost_in_rollout(folder: Path, chunk: RolloutChunk) -> None:
    if chunk.epoch == 0 and chunk.indices[0] == 2:
        lose_node(folder, "rollout")


def lost_in_reward(folder: Path, call: int) -> None:
    if call == 5:  # in the second epoch
        lose_node(folder, "reward")


def lost_in_upload(folder: Path, uri: str) -> None:
    if "step-000003" in uri:
        lose_node(folder, "upload")


def lost_or_drained_in_update(folder: Path, steps_done: int) -> None:
    """The node of the third update is lost; that of the fourth drains, and the update begins when
    the process has notice."""
    if steps_done == 2:
        lose_node(folder, "update")
    if steps_done == 3 and strike(folder, "drain"):
        while not preemption.noticed():
            time.sleep(0.05)


def drain(node_id: str) -> None:
    deadline = int(time.time() * 1000) + 600_000
    ray._private.worker.global_worker.gcs_client.drain_node(
        node_id, autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "test", deadline
    )


def test_nodes_that_go_in_every_phase_change_no_bit(
    nodes: Nodes,
    calm: tuple[str, list[float]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four nodes are lost: in a rollout, a reward, an update and an upload. A fifth has notice, and
    is left at the end of its epoch."""
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    recipe, folder = recipe_with(), tmp_path / "run"
    rollouts = RayRollouts.start(
        recipe,
        functools.partial(Warmth, functools.partial(lost_in_reward, folder)),
        functools.partial(lost_in_rollout, folder),
    )
    config = {
        "recipe": recipe,
        "folder": folder,
        "rollouts": rollouts,
        "before_step": functools.partial(lost_or_drained_in_update, folder),
        "before_upload": functools.partial(lost_in_upload, folder),
    }

    def answer(node_id: str) -> None:
        drained = folder / "drain.struck"
        if drained.exists() and drained.read_text() == node_id:
            nodes.add("learner")
            drain(node_id)
        else:
            nodes.replace(node_id)

    with nodes.answering(folder, answer):
        # Two failures are forgiven, those of update and upload: leaving a node is none.
        adapter, rewards = run_training(
            learn,
            config,
            workers=1,
            resources=recipe.worker_resources,
            scratch=tmp_path,
            max_failures=2,
        )
    rollouts.stop()
    assert {path.stem for path in folder.glob("*.struck")} == {
        "rollout",
        "reward",
        "update",
        "upload",
        "drain",
    }
    # The last group went on from the checkpoint that was saved before the drained node was left.
    assert rewards == dict(list(enumerate(calm[1]))[4:])
    assert adapter.checksum == calm[0]
    assert caplog.text.count("going on from the newest checkpoint") == 3


def test_a_learner_without_a_node_ends_by_name(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    monkeypatch.setattr(train, "START_S", 60.0)
    resources = Resources(cpus=1, labels={"pool": "nowhere"})
    with pytest.raises(ClusterError, match=r"1 training worker.*pool=learner"):
        run_training(nothing, {}, workers=1, resources=resources, scratch=tmp_path)


def waits_for_two(folder: Path, chunk: RolloutChunk) -> None:
    """In the first epoch, no chunk before two actors are there; in the second, none before the late
    one loses its node."""
    (folder / f"{os.getpid()}.actor").touch()
    if chunk.epoch == 0:
        strike(folder, "alone")
        while len(list(folder.glob("*.actor"))) < 2:
            time.sleep(0.05)
    elif ray.get_runtime_context().get_node_id() == (folder / "late").read_text():
        lose_node(folder, "lost")
    while chunk.epoch == 1 and not (folder / "lost.struck").exists():
        time.sleep(0.05)


def test_an_actor_joins_late_and_the_others_go_on_without_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boig_core.diffusion.lora import read_adapter
    from boig_core.diffusion.rollout import LocalRollouts, Sampler, epoch_chunks

    recipe = recipe_with("ddpo.rollout_actors=2")
    folder = tmp_path / "run"
    local = LocalRollouts(Sampler(recipe), Warmth(nothing, "cpu"))
    adapter = read_adapter(local.sampler.pipe.unet, 0)
    rollouts = RayRollouts.start(
        recipe, functools.partial(Warmth, nothing), functools.partial(waits_for_two, folder)
    )
    answers = iter([lambda _: (folder / "late").write_text(nodes.add("rollouts")), nodes.remove])
    with nodes.answering(folder, lambda node_id: next(answers)(node_id)):
        for epoch, redone in ((0, 0), (1, 1)):
            chunks = epoch_chunks(recipe.ddpo, SAMPLES, recipe.seed, epoch)
            for (a, reward_a), (b, reward_b) in zip(
                rollouts.collect(adapter, chunks), local.collect(adapter, chunks), strict=True
            ):
                assert np.array_equal(a.latents_BSCHW, b.latents_BSCHW)
                assert np.array_equal(reward_a, reward_b)
            spent = rollouts.spent(1.0)
            assert spent["chunks_redone"] == redone
            assert (spent["seconds_lost"] > 0) == (redone > 0)
    # the last one goes too, and none comes back
    monkeypatch.setattr(actors, "START_S", 1.0)
    [last] = [node_id for node_id, pool in nodes.pools.items() if pool == "rollouts"]
    nodes.remove(last)
    with pytest.raises(ClusterError, match=r"2 actors for rollouts: none was there for 1 s"):
        rollouts.collect(adapter, chunks)
    rollouts.stop()
    nodes.add("rollouts")


def test_what_does_not_fit_is_named_before_anything_starts(nodes: Nodes) -> None:
    ranks = Demand(2, "learner ranks", Resources(cpus=1, labels={"pool": "learner"}))
    says = r"2 learner ranks of 1 CPU \+ pool=learner, 1 actors of 0.5 CPU: did not fit within 1 s into .*1 x \(1 CPU, pool=learner\)"
    with (
        pytest.raises(ClusterError, match=says),
        room(ranks, [Demand(1, "actors", Resources())], 1.0),
    ):
        pytest.fail("there is no room")


def test_actors_with_a_share_of_a_gpu_leave_the_ranks_theirs(nodes: Nodes) -> None:
    nodes.add("gpu", num_cpus=8, num_gpus=2)
    label = {"pool": "gpu"}
    ranks, others = (
        Demand(2, "ranks", Resources(gpus=0.6, labels=label)),
        Demand(4, "actors", Resources(gpus=0.2, labels=label)),
    )

    @ray.remote
    class Held:
        pass

    def start(demand: Demand) -> list[Any]:
        created = [
            Held.options(**actor_options(demand.resources)).remote() for _ in range(demand.count)
        ]  # type: ignore[attr-defined]
        ray.get([actor.__ray_ready__.remote() for actor in created], timeout=1500)
        return created

    with room(ranks, [others], 60.0):
        # By themselves they would share one GPU, and leave no room for a rank there.
        sharing = start(others)
    for actor in (*sharing, *start(ranks)):
        ray.kill(actor)
