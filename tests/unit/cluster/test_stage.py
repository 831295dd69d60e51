"""The reason of a failed stage, inside the errors that Ray puts around what its workers raise."""

from __future__ import annotations

from boig_core.cluster.stage import wrapped
from boig_core.errors import CorruptError, InputError, UserError
from boig_core.storage.stage import root_cause


def reason_of(exc: BaseException) -> BaseException:
    return root_cause(exc, wrapped)


class Wrapped(Exception):
    """As Ray wraps what its workers raise."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


class Dual(Wrapped, InputError):
    """As ``ray.get`` raises what a task raised."""

    def __init__(self, cause: BaseException) -> None:
        InputError.__init__(self, "wrapped", "wrapped", "wrapped")
        self.cause = cause


class Failed(Exception):
    """As Ray Train reports its workers."""

    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__("failed")
        self.worker_failures = failures


def test_root_cause_looks_through_wrappers_only() -> None:
    reason = InputError("x", "is wrong", "mend it")
    assert reason_of(Failed({0: Wrapped(reason)})) is reason
    lost_peer = Failed({0: RuntimeError("connection closed by peer"), 1: Wrapped(reason)})
    assert reason_of(lost_peer) is reason
    dual = Dual(reason)
    assert reason_of(dual) is reason, "Ray's wrapper poses as the type of its cause"
    assert reason_of(RuntimeError(Wrapped(reason), "actor died")) is reason
    outer = CorruptError("x", "is torn", "make it again")
    outer.__cause__ = reason
    assert reason_of(outer) is outer, "of two boig errors the one that was raised last knows more"
    chained = RuntimeError("outer")
    chained.__cause__ = reason
    assert reason_of(chained) is reason
    bug = RuntimeError("a bug in the handler")
    bug.__context__ = UserError("probe", "is not there", "no matter")
    assert reason_of(bug) is bug, "an error that was being handled is not the reason"
    loop = Wrapped(ValueError())
    loop.cause = loop
    assert reason_of(loop) is loop
