"""Training workers on Ray: a thin wrapper around Ray Train's ``TorchTrainer`` that returns rank 0's result and raises boig's own errors.

Checkpoints are the training's own business (`boig_core.training.checkpoint`), so a restarted worker group simply calls the function
again and it continues from the newest one. Leaves out: what is trained, and connecting to the cluster (see `session`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from boig_core.config import Resources
from boig_core.errors import BoigError, ClusterError, UserError
from boig_core.observability.logs import configure_logging, get_logger

T = TypeVar("T")
log = get_logger(__name__)


def run_training(
    fn: Callable[[dict[str, Any]], T],
    config: dict[str, Any],
    *,
    workers: int,
    resources: Resources,
    scratch: Path,
    max_failures: int = 1,
) -> T:
    """Run ``fn(config)`` in each of some worker processes with a torch process group between them; returns what rank 0 returned.

    Args:
        fn: the training, importable or picklable; runs once a worker and must restore its own checkpoints.
        config: its argument, picklable.
        workers: how many processes.
        resources: CPUs and GPUs a worker.
        scratch: local folder for Ray Train's own bookkeeping.
        max_failures: how often a group that lost a worker is started again. User errors are never tried again.

    Raises:
        BoigError: the very error that a worker raised, user errors before others.
        ClusterError: the workers could not be placed, or failed otherwise too often.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for failures in range(max_failures + 1):
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"fn": fn, "config": config},
            torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
            ),
            run_config=RunConfig(
                name=f"boig-{failures}", storage_path=str(scratch / "ray-train"), worker_runtime_env={"env_vars": _environment(resources)}
            ),
        )
        try:
            result: T = trainer.fit().return_value
            return result
        except Exception as exc:
            error = _own_error(exc)
            if isinstance(error, UserError) or failures == max_failures:
                raise (error or ClusterError(f"{workers} training worker(s)", f"failed: {_first_line(exc)}", "see the job's log")) from exc
            log.warning("training workers failed, starting them again: %s", error or _first_line(exc))
    raise AssertionError("unreachable")


def _worker(loop: dict[str, Any]) -> Any:
    configure_logging()
    return loop["fn"](loop["config"])


def _environment(resources: Resources) -> dict[str, str]:
    """Environment of the workers: without GPUs one thread each (two workers on two cores), and DeepSpeed told that there is no GPU."""
    if resources.gpus:
        return {}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "DS_ACCELERATOR": "cpu"}


def _own_error(exc: BaseException) -> BoigError | None:
    """The boig error behind a failed training: a user error if any worker raised one (the others then fail for lack of a peer)."""
    found = list(_own_errors(exc, set()))
    return next((e for e in found if isinstance(e, UserError)), found[0] if found else None)


def _own_errors(exc: BaseException | None, seen: set[int]) -> Iterator[BoigError]:
    if exc is None or id(exc) in seen:
        return
    seen.add(id(exc))
    if isinstance(exc, BoigError):
        yield exc
    failures = getattr(exc, "worker_failures", None)
    inner = list(failures.values()) if isinstance(failures, dict) else []
    for link in (*inner, getattr(exc, "_base_exc", None), getattr(exc, "cause", None), exc.__cause__, exc.__context__):
        if isinstance(link, BaseException):
            yield from _own_errors(link, seen)


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip().splitlines()
    return text[-1] if text else type(exc).__name__
