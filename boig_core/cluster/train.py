"""Training workers on Ray: a thin wrapper around Ray Train's ``TorchTrainer`` that returns rank 0's
result and raises boig's own errors.

Checkpoints are the training's own business (`boig_core.training.checkpoint`), so a restarted worker
group simply calls the function again and it continues from the newest one. Leaves out: what is
trained, and connecting to the cluster (see `session`).
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import ray
from ray.train import ControllerError, FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.context import get_train_context

from boig_core.cluster.actors import RESTARTS, START_S
from boig_core.cluster.placement import bundle, nodes
from boig_core.cluster.relay import RowSender, received, sent_to
from boig_core.cluster.stage import wrapped
from boig_core.config import Resources
from boig_core.errors import BoigError, ClusterError, PreemptedError, ScorerError, UserError
from boig_core.observability.logs import configure_logging, get_logger
from boig_core.training import preemption

T = TypeVar("T")
log = get_logger(__name__)

_PLACED_S: Final = 60.0
"""How long Ray Train waits for the workers of a group before it tries anew."""


def run_training(
    fn: Callable[[dict[str, Any]], T],
    config: dict[str, Any],
    *,
    workers: int,
    resources: Resources,
    scratch: Path,
    max_failures: int = RESTARTS,
    name: str = "",
    on_row: Callable[[int, dict[str, float]], None] | None = None,
    stop: threading.Event | None = None,
) -> T:
    """Run ``fn(config)`` in each of some worker processes with a torch process group between them;
    returns what rank 0 returned. Lines of its log are logged here, too (see `relay`).

    Args:
        fn: the training, importable or picklable; runs once a worker and must restore its own
            checkpoints.
        config: its argument, picklable.
        workers: how many processes.
        resources: what a worker asks for.
        scratch: local folder for Ray Train's own bookkeeping.
        max_failures: how often a group that lost a worker is started again. Wrong inputs and
            rewards are never tried again, and a group that saved its state because its node goes
            does not count.
        name: begins each line, where several trainings run side by side.
        on_row: gets, in another thread, the rows that rank 0 gives to ``config["rows"]``, a
            function of step and metrics that is there where this is.
        stop: once it is set, the workers are killed, and not started again.

    Raises:
        BoigError: the very error that a worker raised, user errors before others.
        ClusterError: the workers could not be placed for `START_S`, or failed otherwise too often.
    """
    failures = 0
    for start in itertools.count():
        began = time.monotonic()
        try:
            with received(on_row, stop) as box:
                loop = {"fn": fn, "config": config, "letterbox": box, "name": name}
                loop["rows"] = on_row is not None
                # `start` names the run anew: under a name that has been there Ray Train restores
                # what it kept of that run.
                trainer = _trainer(loop, workers, resources, scratch, start)
                result: T = trainer.fit().return_value
                return result
        except Exception as exc:
            error = _own_error(exc)
            failures += not (isinstance(exc, PreemptionError) or isinstance(error, PreemptedError))
            if failures > max_failures or _is_final(exc, error, stop):
                rule = f"failed: {_last_line(exc)}; the cluster is {nodes()}"
                gone = ClusterError(f"{workers} training worker(s)", rule, "see the job's log")
                raise (error or gone) from exc
            log.warning(
                "%s workers ended after %.1f s, going on from the newest checkpoint: %s",
                f"{name}: training" if name else "training",
                time.monotonic() - began,
                error or _last_line(exc),
            )
    raise AssertionError("unreachable")


def _trainer(
    loop: dict[str, Any], workers: int, resources: Resources, scratch: Path, start: int
) -> Any:
    # Ray would start a group again by itself whatever it died of, and wait for ever for one that it
    # cannot place.
    once = FailureConfig(
        max_failures=0,
        max_preemption_failures=0,
        # So often Ray Train tries to place the group: all tries together take `START_S`.
        controller_failure_limit=max(0, round(START_S / _PLACED_S) - 1),
    )
    return TorchTrainer(
        _worker,
        train_loop_config=loop,
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=bundle(resources),
            label_selector=resources.labels or None,
        ),
        run_config=RunConfig(
            name=f"boig-{start}",
            storage_path=str(scratch / "ray-train"),
            failure_config=once,
            worker_runtime_env={"env_vars": _environment(resources)},
        ),
    )


def _worker(loop: dict[str, Any]) -> Any:
    # First of all: `sent_to` takes over the handler that this makes.
    configure_logging()
    preemption.ask(_node_drains)
    letterbox, rows = loop["letterbox"], RowSender(loop["letterbox"])
    # Before the training: from here on the stage can end this worker, wherever it hangs.
    letterbox.join.remote(ray.get_runtime_context().current_actor)
    with sent_to(letterbox, get_train_context().get_world_rank(), loop["name"]):
        try:
            return loop["fn"]({**loop["config"], "rows": rows} if loop["rows"] else loop["config"])
        finally:
            # After an error, too: the curve then holds what led to it.
            rows.drain()


def _node_drains() -> bool:
    """Whether a node of this group is about to go; Ray's public function would be a barrier of all
    workers at each step."""
    return get_train_context().preemption_context.preemption_info is not None


def _environment(resources: Resources) -> dict[str, str]:
    """Environment of the workers: without GPUs one thread each (two workers on two cores), and
    DeepSpeed told that there is no GPU."""
    if resources.gpus:
        return {}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "DS_ACCELERATOR": "cpu"}


def _is_final(exc: Exception, error: BoigError | None, stop: threading.Event | None) -> bool:
    """Whether a training ends here: it was stopped, or would fail the same way again, since Ray's
    own controller gave up, an input is wrong, or a reward."""
    stopped = stop is not None and stop.is_set()
    return (
        stopped or isinstance(exc, ControllerError) or isinstance(error, (UserError, ScorerError))
    )


def _own_error(exc: BaseException) -> BoigError | None:
    """The boig error behind a failed training: a user error if any worker raised one (the others
    then fail for lack of a peer)."""
    errors = list(_own_errors(exc, set()))
    return next((e for e in errors if isinstance(e, UserError)), errors[0] if errors else None)


def _own_errors(exc: BaseException | None, seen: set[int]) -> Iterator[BoigError]:
    # Links are followed in all directions: an error may be reached in several ways, or lead back to
    # itself.
    if exc is None or id(exc) in seen:
        return
    seen.add(id(exc))
    if isinstance(exc, BoigError):
        yield exc
    for link in (*wrapped(exc), exc.__cause__, exc.__context__):
        yield from _own_errors(link, seen)


def _last_line(exc: BaseException) -> str:
    text = str(exc).strip().splitlines()
    return text[-1] if text else type(exc).__name__
