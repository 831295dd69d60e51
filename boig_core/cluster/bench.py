"""DDPO measured where the stage runs: the recipe's pools of actors, and its ranks under Ray Train.

Leaves out: what is measured (`boig_core.diffusion.bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from boig_core.cluster.rollouts import RayRollouts
from boig_core.cluster.session import connect
from boig_core.cluster.train import run_training
from boig_core.config import Recipe
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.ranks import rank
from boig_core.vocabulary import Sample

if TYPE_CHECKING:
    from boig_core.diffusion.bench import Speed
    from boig_core.diffusion.findings import Scorer


def bench_on_ray(
    recipe: Recipe, samples: Sequence[Sample], make_scorer: Callable[[str], Scorer], scratch: Path
) -> Speed:
    """`boig_core.diffusion.bench.bench` through Ray; floor and plain loop are measured in rank 0's
    process.

    Args:
        recipe: as `boig_core.diffusion.bench.measured` gives it.
        samples: whose texts are the prompts.
        make_scorer: opens the scorer, given the device.
        scratch: local folder.

    Raises:
        ClusterError: the recipe's actors and ranks did not fit or did not start.
        BoigError: whatever the training raised.
    """
    connect()
    with RayRollouts.placed(recipe, make_scorer) as rollouts:
        config = {
            "recipe": recipe,
            "samples": samples,
            "make_scorer": make_scorer,
            "rollouts": rollouts,
            "folder": str(scratch),
        }
        # No second start: a training that goes on from a checkpoint is not what is measured.
        speed = run_training(
            _rank,
            config,
            workers=recipe.ddpo.workers,
            resources=recipe.worker_resources,
            scratch=scratch,
            max_failures=0,
        )
    return cast("Speed", speed)  # of rank 0


def _rank(config: dict[str, Any]) -> Speed | None:
    from boig_core.diffusion.bench import bench
    from boig_core.diffusion.learner import Learner

    recipe: Recipe = config["recipe"]
    # Rank 0 alone asks for rollouts; the others take their part in each update, which `bench`
    # times.
    if rank() > 0:
        Learner(
            recipe, config["samples"], None, Checkpoints(config["folder"], 1), lambda *_: None
        ).fit()
        return None
    scorer: Scorer = config["make_scorer"]("cuda" if recipe.worker_resources.gpus else "cpu")
    return bench(
        recipe,
        config["samples"],
        scorer,
        config["folder"],
        config["rollouts"],
        _idle(config["rollouts"]),
    )


def _idle(rollouts: RayRollouts) -> Callable[[float], dict[str, float]]:
    return lambda wall_s: {
        name: share for name, share in rollouts.spent(wall_s).items() if name.startswith("idle_")
    }
