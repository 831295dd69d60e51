"""Several trainings side by side, each by workers of its own; the first error ends all of them.

Leaves out: what one training is (see `train`), and what is trained.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from boig_core.cluster.train import run_training
from boig_core.errors import UserError
from boig_core.observability.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)


def run_trainings(
    fn: Callable[[dict[str, Any]], T], configs: Mapping[str, dict[str, Any]], *, at_once: int, **options: Any
) -> dict[str, T]:
    """Run ``fn`` on each config, in their order, some at a time; returns what each rank 0 returned, by the config's name.

    Args:
        fn: the training, as for `run_training`.
        configs: its arguments by the name of the training, which begins each line that its workers log.
        at_once: how many trainings run side by side.
        options: of each `run_training`; ``scratch`` and ``on_row`` are shared.

    Raises:
        BoigError: of the training that failed first, a user error before others; the other trainings are stopped.
    """
    stop = threading.Event()

    def train(name: str) -> T:
        log.info("training %s, %d of %d", name, list(configs).index(name) + 1, len(configs))
        own = {**options, "scratch": options["scratch"] / name, "name": name, "stop": stop}
        return run_training(fn, configs[name], **own)

    if at_once == 1:  # in the main thread, where Ray Train handles Ctrl-C
        return {name: train(name) for name in configs}
    with ThreadPoolExecutor(at_once, thread_name_prefix="boig-training") as pool:
        trainings = {name: pool.submit(train, name) for name in configs}
        try:
            ended, _ = wait(trainings.values(), return_when=FIRST_EXCEPTION)
            _raise_first(ended, trainings)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: training.result() for name, training in trainings.items()}


def _raise_first(ended: set[Future[T]], trainings: Mapping[str, Future[T]]) -> None:
    errors = {name: error for name, training in trainings.items() if training in ended and (error := training.exception()) is not None}
    if errors:
        name = next((name for name, error in errors.items() if isinstance(error, UserError)), next(iter(errors)))
        log.error("training %s failed: the others are stopped", name)
        raise errors[name]
