"""Several trainings side by side, each by workers of its own; the first error ends all of them.

Leaves out: what one training is (see `train`), and what is trained.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from boig_core.cluster.train import run_training
from boig_core.observability.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)


def run_trainings(
    fn: Callable[[dict[str, Any]], T],
    configs: Mapping[str, dict[str, Any]],
    *,
    at_once: int,
    **options: Any,
) -> dict[str, T]:
    """Run ``fn`` on each config, in their order, some at a time; returns what each rank 0 returned,
    by the config's name.

    Args:
        fn: the training, as for `run_training`.
        configs: its arguments by the name of the training, which begins each line that its workers
            log.
        at_once: how many trainings run side by side.
        options: of each `run_training`; ``scratch`` and ``on_row`` are shared.

    Raises:
        BoigError: of the training that failed first; the others are stopped.
    """
    stop, failures = threading.Event(), list[Exception]()

    def train(name: str) -> T:
        if stop.is_set():
            raise CancelledError
        log.info("training %s, %d of %d", name, list(configs).index(name) + 1, len(configs))
        # A scratch folder each: Ray Train's runs have the same name in every training.
        own = {**options, "scratch": options["scratch"] / name, "name": name, "stop": stop}
        try:
            return run_training(fn, configs[name], **own)
        except Exception as exc:
            # What fails later may fail because it was stopped: the first error is the one to tell.
            if not stop.is_set():
                log.error("training %s failed: the others are stopped", name)
                failures.append(exc)
            stop.set()  # here, before this thread takes up a training that waits
            raise

    if at_once == 1:  # in the main thread, where Ray Train handles Ctrl-C
        return {name: train(name) for name in configs}
    # Leaving the pool waits for every thread: no worker is left behind, and each failure is known.
    with ThreadPoolExecutor(at_once, thread_name_prefix="boig-training") as pool:
        trainings = {name: pool.submit(train, name) for name in configs}
        try:
            wait(trainings.values(), return_when=FIRST_EXCEPTION)
        # Ctrl-C arrives here. Without the stop, the pool would wait until all trainings are done.
        except BaseException:
            stop.set()
            raise
    # The first in time; the first by the order of the configs may have been stopped for it.
    if failures:
        raise failures[0]
    return {name: training.result() for name, training in trainings.items()}
