"""Attempts: how a stage's work becomes true exactly once, and how an old attempt is kept from ever
publishing.

An attempt writes only below ``attempt-N/`` and into output versions of its own. One act makes it
true: a conditional put of ``attempt-N/commit.json``. Before attempt N+1 starts, the operator puts
``{"fenced": true}`` into N's key the same way: whoever comes first wins, for good. Leaves out: who
decides to start an attempt (see `boig_core.orchestration`).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from boig_core.errors import BoigError, FencedError, NotFoundInStoreError
from boig_core.observability.logs import hide_secrets
from boig_core.storage import control, store

COMMIT = "commit.json"
ERROR = "error.json"

Fate = Literal["committed", "fenced", "failed", "open"]
_REMEDY: Final = "restore the file, or clear the task so that a new attempt runs"


class _Metrics(BaseModel):
    """Those that every stage has; others are its own."""

    seconds: float | None = Field(None, strict=True)


class _Committed(BaseModel):
    """What a ``commit.json`` that is no fence must hold."""

    outputs: dict[str, str]
    metrics: _Metrics


def attempt_uri(task_uri: str, attempt: int) -> str:
    """Folder of one attempt of a task."""
    return store.join(task_uri, f"attempt-{attempt}")


def commit(attempt: str, outputs: dict[str, str], metrics: dict[str, Any]) -> dict[str, Any]:
    """Make an attempt true.

    Args:
        attempt: URI of ``attempt-N``.
        outputs: URI of each output folder by name; their manifests must be in place.
        metrics: small JSON values for XCom and the report.

    Returns:
        What was committed.

    Raises:
        FencedError: a newer attempt has fenced this one; nothing was published.
    """
    # The token tells this writer's bytes from those of another that commits the same outputs.
    body = {"token": uuid.uuid4().hex, "outputs": outputs, "metrics": _finite(metrics)}
    if not store.put_if_absent(store.join(attempt, COMMIT), json.dumps(body, indent=1).encode()):
        raise FencedError(
            attempt,
            "a newer attempt has fenced this one",
            "nothing was published; use the newer attempt",
        )
    return body


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; a number that is not finite becomes null: a gap, never a
    made-up value."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fence(attempt: str) -> dict[str, Any] | None:
    """Keep an attempt from ever committing; returns its commit if it came first, else None."""
    body = json.dumps({"fenced": True, "token": uuid.uuid4().hex}).encode()
    if store.put_if_absent(store.join(attempt, COMMIT), body):
        return None
    # The key is taken by a commit, or by an earlier fence, for which this is None as well.
    return read_commit(attempt)


def read_commit(attempt: str) -> dict[str, Any] | None:
    """The commit of an attempt, or None when it has none or was fenced.

    Raises:
        CorruptError: the file is neither a commit nor a fence.
    """
    uri = store.join(attempt, COMMIT)
    try:
        body = control.read_object(uri, "a commit", _REMEDY)
    except NotFoundInStoreError:
        return None
    if body.get("fenced") is True:
        return None
    control.validated(uri, _Committed, body, "a commit", _REMEDY)
    return body


def fate(attempt: str) -> Fate:
    """What the store knows of an attempt; ``open`` means running, or dead without a word."""
    # Asked first: a fenced attempt that wakes up late leaves an error.json, too.
    if store.exists(store.join(attempt, COMMIT)):
        return "fenced" if read_commit(attempt) is None else "committed"
    return "failed" if store.exists(store.join(attempt, ERROR)) else "open"


@dataclass(frozen=True)
class Failure:
    """Content of ``error.json``."""

    type: str
    message: str
    remedy: str
    user: bool


def write_failure(attempt: str, exc: BaseException) -> Failure:
    """Leave the reason of a failed attempt, without secrets, where the operator looks for it."""
    if isinstance(exc, BoigError):
        failure = Failure(
            type(exc).__name__,
            hide_secrets(f"{exc.value}: {exc.rule}"),
            hide_secrets(exc.remedy),
            exc.is_user_error,
        )
    else:
        failure = Failure(type(exc).__name__, hide_secrets(str(exc)), "see the job's log", False)
    body = {name: _with_bytes(value) for name, value in failure.__dict__.items()}
    store.write_bytes(store.join(attempt, ERROR), json.dumps(body, indent=1).encode())
    return failure


def _with_bytes(value: str | bool) -> str | bool:
    """A text with escapes for what UTF-8 has no bytes for, such as parts of a name of a file."""
    return value if isinstance(value, bool) else value.encode(errors="backslashreplace").decode()


def read_failure(attempt: str) -> Failure | None:
    """The reason that a failed attempt left, if any.

    Raises:
        CorruptError: the file holds none.
    """
    try:
        return control.read(store.join(attempt, ERROR), Failure, "a failure", _REMEDY)
    except NotFoundInStoreError:
        return None


def attempts(task_uri: str) -> list[int]:
    """Numbers of the attempts that left anything, rising."""
    numbers = {
        int(m.group(1))
        for path, _ in store.list_files(task_uri)
        if (m := re.match(r"attempt-(\d+)/", path))
    }
    return sorted(numbers)
