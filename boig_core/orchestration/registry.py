"""The MLflow registry's aliases: which models they name, and rollback, by which ``champion`` and ``previous`` change places.

The version says who decided, when and why. Leaves out: how a model becomes champion (see `promotion`). Needs no Airflow, since rollback is
wanted most when something is down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from boig_core.errors import InfrastructureError, InputError

MODEL = "boigsd"
"""Name of the registered model."""


def rollback(by: str, why: str) -> dict[str, str]:
    """Make the previous model champion again; the one it replaces becomes ``previous``, so a second rollback undoes the first.

    Args:
        by: who decided.
        why: the reason, kept as a tag on the version that becomes champion.

    Returns:
        ``{"model", "champion", "previous"}``, versions as they are afterwards.

    Raises:
        InputError: no tracking server is set, no reason is given, or there is no previous model.
        InfrastructureError: MLflow does not answer.
    """
    if not why.strip():
        raise InputError("--why", "is empty", "say why the champion goes")
    with _client() as client:
        aliases = _aliases(client)
        champion, previous = aliases.get("champion"), aliases.get("previous")
        if champion is None or previous is None or champion == previous:
            raise InputError(MODEL, "has no previous model to go back to", "promote another model with boig_promote")
        # The reason is written first: an alias that moved without a record could not be explained afterwards.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        tags = {"rollback_by": by, "rollback_at": now, "rollback_why": why, "rollback_of": champion}
        for key, value in tags.items():
            client.set_model_version_tag(MODEL, previous, key, value)
        client.set_registered_model_alias(MODEL, "champion", previous)
        client.set_registered_model_alias(MODEL, "previous", champion)
    return {"model": MODEL, "champion": previous, "previous": champion}


def promoted() -> list[str]:
    """URIs of the models that an alias names, and of their reports; empty when nothing was ever promoted.

    Raises:
        InputError: no tracking server is set.
        InfrastructureError: MLflow does not answer.
    """
    with _client() as client:
        tags = [client.get_model_version(MODEL, version).tags for version in _aliases(client).values()]
    return sorted({str(tag[key]) for tag in tags for key in ("uri", "report") if key in tag})


def _aliases(client: Any) -> dict[str, str]:
    found = client.search_registered_models(f"name='{MODEL}'")
    return {name: str(version) for name, version in client.get_registered_model(MODEL).aliases.items()} if found else {}


@contextmanager
def _client() -> Iterator[Any]:
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise InputError("MLFLOW_TRACKING_URI", "is not set", "set it to the MLflow server that keeps the registry")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        yield MlflowClient()
    except MlflowException as exc:
        raise InfrastructureError(server, f"MLflow failed ({exc})", "check the server and its log") from exc
