"""The MLflow registry's aliases: ``champion`` is served, ``previous`` is the one before it; a move
of both is finished even if it was cut.

An alias moves by a call of its own. So each move is written down first (tag ``move`` of the
registered model), and whoever comes next finishes one that was cut. Leaves out: what makes a model
champion (see `promotion`). Needs no Airflow, since a rollback is wanted most when something is
down. Two people who move at the same moment are not kept apart: MLflow has no conditional write;
what is found afterwards is checked, and a difference is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from boig_core.errors import InfrastructureError, InputError
from boig_core.observability.logs import hide_secrets

MODEL = "boigsd"
"""Name of the registered model."""
_MOVE = "move"


@dataclass(frozen=True)
class Move:
    """Where the aliases go.

    Attributes:
        id: of the decision; one that is carried out again moves nothing.
        kind: what was decided.
        champion: version that becomes champion.
        previous: version that becomes previous; None: there was no champion.
        done: whether both aliases have moved.
    """

    id: str
    kind: Literal["promote", "rollback"]
    champion: str
    previous: str | None
    done: bool = False


@contextmanager
def registry() -> Iterator[Any]:
    """MLflow's client.

    Raises:
        InputError: no tracking server is set.
        InfrastructureError: MLflow does not answer, or fails within the block.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise InputError(
            "MLFLOW_TRACKING_URI",
            "is not set",
            "set it to the MLflow server that keeps the registry",
        )
    # Here and not above: DAG files import this module, and Airflow parses them again and again.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        yield MlflowClient()
    except MlflowException as exc:  # says the whole address, as would a cause in a traceback
        raise InfrastructureError(
            hide_secrets(server),
            hide_secrets(f"MLflow failed ({exc})"),
            "check the server and its log",
        ) from None


def champion() -> str | None:
    """URI of the champion's folder; None before the first promotion.

    Raises:
        InputError: no tracking server is set, or the champion is a version that boig has not
            registered.
        InfrastructureError: MLflow does not answer.
    """
    with registry() as client:
        version = aliases(client).get("champion")
        if version is None:
            return None
        uri = client.get_model_version(MODEL, version).tags.get("uri")
    if not uri:
        raise InputError(
            f"champion of {MODEL}, version {version}",
            "has no tag uri",
            "tag it with its folder's URI, or take the alias away",
        )
    return str(uri)


def promoted() -> list[str]:
    """URIs of the models that an alias names, or will name by a move that was cut, and of their
    reports; empty before the first promotion.

    Raises:
        InputError: no tracking server is set.
        InfrastructureError: MLflow does not answer.
    """
    with registry() as client:
        newest = _newest_move(client)
        # A move that was cut will be finished by whoever comes next: both its models must outlast a
        # clean-up until then. Between its two steps no alias names the former champion.
        named = {*aliases(client).values()}
        if newest is not None and not newest.done:
            named |= {newest.champion, *([newest.previous] if newest.previous else [])}
        tags = [client.get_model_version(MODEL, version).tags for version in named]
    return sorted({str(tag[key]) for tag in tags for key in ("uri", "report") if key in tag})


def is_registered(client: Any) -> bool:
    """Whether the registry knows the model at all."""
    return bool(client.search_registered_models(f"name='{MODEL}'"))


def aliases(client: Any) -> dict[str, str]:
    """Version of each alias; none before the first promotion."""
    if not is_registered(client):
        return {}
    return {
        name: str(version) for name, version in client.get_registered_model(MODEL).aliases.items()
    }


def last_move(client: Any) -> tuple[Move | None, bool]:
    """The newest move, and whether it had been cut and was finished just now."""
    newest = _newest_move(client)
    return (newest, False) if newest is None or newest.done else (_carry_out(client, newest), True)


def move(client: Any, wanted: Move) -> dict[str, str | None]:
    """Move both aliases; returns ``{"champion", "previous"}`` as they are afterwards.

    Raises:
        InfrastructureError: somebody else has moved them at the same time.
    """
    client.set_registered_model_tag(MODEL, _MOVE, json.dumps(asdict(wanted)))
    _carry_out(client, wanted)
    alias_versions = aliases(client)
    if alias_versions.get("champion") != wanted.champion:
        rule = f"is version {alias_versions.get('champion')}, not {wanted.champion}: somebody else has moved it at the same time"
        raise InfrastructureError(
            f"champion of {MODEL}", rule, "look at the registry, then decide again"
        )
    return {"champion": alias_versions["champion"], "previous": alias_versions.get("previous")}


def _newest_move(client: Any) -> Move | None:
    tag = client.get_registered_model(MODEL).tags.get(_MOVE) if is_registered(client) else None
    return None if tag is None else Move(**json.loads(tag))


def _carry_out(client: Any, wanted: Move) -> Move:
    # First: it is what is served.
    client.set_registered_model_alias(MODEL, "champion", wanted.champion)
    if wanted.previous is not None:
        client.set_registered_model_alias(MODEL, "previous", wanted.previous)
    # Noted last: a move without this note is carried out again, which changes nothing that has
    # moved.
    done = replace(wanted, done=True)
    client.set_registered_model_tag(MODEL, _MOVE, json.dumps(asdict(done)))
    return done


def rollback(by: str, why: str, decision: str = "") -> dict[str, str | None]:
    """Make the previous model champion again; the one it replaces becomes ``previous``, so a second
    rollback undoes the first.

    A rollback that was cut is finished, and nothing else is done: who tries again wants that one.

    Args:
        by: who decided.
        why: the reason, kept as a tag on the version that becomes champion.
        decision: id of the decision; the same one again changes nothing. Empty: a new one.

    Returns:
        ``{"model", "champion", "previous"}``, versions as they are afterwards.

    Raises:
        InputError: no tracking server is set, no reason is given, or there is no previous model.
        InfrastructureError: MLflow does not answer, or somebody else moved the aliases at the same
            time.
    """
    if not why.strip():
        raise InputError("why", "is empty", "say why the champion goes")
    with registry() as client:
        # First of all: aliases that a cut move has left halfway are no pair to swap.
        last, was_cut = last_move(client)
        alias_versions = aliases(client)
        now, before = alias_versions.get("champion"), alias_versions.get("previous")
        if last is not None and last.kind == "rollback" and (was_cut or last.id == decision):
            return {"model": MODEL, "champion": now, "previous": before}
        if now is None or before is None or now == before:
            raise InputError(
                MODEL,
                "has no previous model to go back to",
                "promote another model with boig_promote",
            )
        # The reason is written first: an alias that moved without a record could not be explained
        # afterwards.
        tags = {
            "by": by,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "why": why,
            "of": now,
        }
        for key, value in tags.items():
            client.set_model_version_tag(MODEL, before, f"rollback_{key}", hide_secrets(value))
        return {
            "model": MODEL,
            **move(client, Move(decision or uuid4().hex, "rollback", before, now)),
        }
