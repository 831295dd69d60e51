"""Attempts: how a stage's work becomes true exactly once, and how an old attempt is kept from ever
publishing.

An attempt writes only below ``attempt-N/`` and into output versions of its own. One act makes it
true: a conditional put of ``attempt-N/commit.json``. Before attempt N+1 starts, the operator puts
``{"fenced": true}`` into N's key the same way: whoever comes first wins, for good. In the file
outputs are named by their places in the store (see `places`). Leaves out: who decides to start an
attempt (see `boig_core.orchestration`).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, field_validator, model_validator

from boig_core.errors import BoigError, FencedError, NotFoundInStoreError
from boig_core.observability.logs import hide_secrets
from boig_core.storage import control, places, store

COMMIT = "commit.json"
ERROR = "error.json"

Fate = Literal["committed", "fenced", "failed", "open"]
_REMEDY: Final = "restore the file, or clear the task so that a new attempt runs"


class CommitFile(BaseModel):
    """Content of ``commit.json``; of a fence there is only that it is one.

    Attributes:
        token: tells this writer's bytes from those of another that commits the same outputs.
        place: path of the attempt's folder below the root of its store; None where there are no
            outputs to find by it.
        outputs: place of each output by name.
        metrics: small JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[2] = 2
    token: str
    place: str | None
    outputs: dict[str, str]
    metrics: dict[str, Any]

    @field_validator("metrics")
    @classmethod
    def _counts_what_was_used(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        # Sums of a run are made of these; the others are for whoever knows the stage.
        for name in ("seconds", "gpu_hours", "cost"):
            TypeAdapter(float | None).validate_python(metrics.get(name), strict=True)
        return metrics

    @model_validator(mode="after")
    def _outputs_can_be_located(self) -> CommitFile:
        if self.outputs and self.place is None:
            raise ValueError("names outputs and not its own place")
        return self


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
        InputError: the outputs do not lie in the attempt's store.
    """
    body = {"token": uuid.uuid4().hex, "outputs": outputs, "metrics": _finite(metrics)}
    if not store.put_if_absent(store.join(attempt, COMMIT), _written(attempt, body)):
        raise FencedError(
            attempt,
            "a newer attempt has fenced this one",
            "nothing was published; use the newer attempt",
        )
    return body


def _written(attempt: str, body: dict[str, Any]) -> bytes:
    """A commit as its file holds it."""
    outputs: dict[str, str] = body["outputs"]
    root = places.common_root(attempt, *outputs.values()) if outputs else ""
    return (
        CommitFile(
            **body
            | {
                "place": places.place_of(attempt, root) if outputs else None,
                "outputs": {name: places.place_of(uri, root) for name, uri in outputs.items()},
            }
        )
        .model_dump_json(indent=1)
        .encode()
    )


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
    """The commit of an attempt, ``{"token", "outputs", "metrics"}``, or None when it has none or
    was fenced.

    Raises:
        CorruptError: as `require_commit`.
    """
    try:
        return require_commit(attempt)
    except NotFoundInStoreError:
        return None


def require_commit(attempt: str) -> dict[str, Any] | None:
    """The commit of an attempt that has one, or None when it was fenced.

    Raises:
        NotFoundInStoreError: it has none.
        CorruptError: the file is neither a commit nor a fence, or of another schema.
    """
    target, what = store.join(attempt, COMMIT), "a commit"
    tree = control.read_object(target, what, _REMEDY)
    if tree.get("fenced") is True:
        return None
    places.require_schema(target, tree, what)
    file = control.validated(target, CommitFile, tree, what, _REMEDY)
    root = "" if file.place is None else places.root_of(attempt, file.place)
    outputs = {
        name: store.join(root, places.checked(place)) for name, place in file.outputs.items()
    }
    return {"token": file.token, "outputs": outputs, "metrics": file.metrics}


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
