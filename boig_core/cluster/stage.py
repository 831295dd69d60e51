"""How a stage that works on Ray runs: as any stage does, and the reason of a failure is looked for
inside the errors that Ray puts around what its workers raise.

Leaves out: the frame itself (see `boig_core.storage.stage`). Imports no ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from boig_core.storage import stage


def run_stage(
    work: Callable[[stage.Workspace], stage.Outcome], argv: list[str] | None = None
) -> int:
    """Run a stage's process; returns its exit code (see `storage.stage.run_stage`)."""
    return stage.run_stage(work, argv, wrapped)


def wrapped(exc: BaseException) -> Iterator[BaseException]:
    """The errors inside one of Ray: those of a training by rank, the cause of a task's."""
    failures = getattr(exc, "worker_failures", None)
    # By name, since this module imports no ray: Ray Train holds errors by rank or as its
    # controller's, a task's error has a cause, and what a worker raises comes with its traceback.
    candidates = [
        *(failures.values() if isinstance(failures, dict) else ()),
        *(getattr(exc, name, None) for name in ("cause", "controller_failure", "_base_exc")),
        *exc.args[:1],
    ]
    yield from (inner for inner in candidates if isinstance(inner, BaseException))
