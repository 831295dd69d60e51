"""The MLflow registry's aliases: ``champion`` is served, ``previous`` is the one before it; a move
of both is finished even if it was cut.

An alias moves by a call of its own. So each move is written down first (tag ``move`` of the
registered model), and whoever comes next finishes one that was cut. Tags name outputs by their
places, beside the store that they were registered from: where ``BOIG_STORE`` is a copy of it, what
the copy holds is meant. Leaves out: what makes a model champion (see `promotion`). Needs no
Airflow, since a rollback is wanted most when something is down. Two people who move at the same
moment are not kept apart: MLflow has no conditional write; what is found afterwards is checked, and
a difference is an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from boig_core import environment
from boig_core.errors import InfrastructureError, InputError
from boig_core.observability.logs import hide_secrets
from boig_core.storage import evidence, manifest, places, store

Alias = Literal["champion", "previous"]
MODEL = "boigsd"
"""Name of the registered model."""
_MOVE = "move"
_LOCATED = ("uri", "report", "recipe", "decision")
_OUTPUT_END = r"/((models|datasets|evaluations)/[^/]+|reports)/[^/]+/?$"


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


def version_tags(gates: Mapping[str, Any], root: str) -> dict[str, str]:
    """Tags of a version that is registered from the store at ``root``: its model, its evidence and
    its lineage, from the result of the promotion's gates."""
    located = {"uri": gates["candidate"]} | {key: gates[key] for key in _LOCATED[1:]}
    return {
        "store": root,
        **{key: places.place_of(uri, root) for key, uri in located.items()},
        **{key: str(gates[key]) for key in ("manifest", "root")},
        "gates": json.dumps(gates["gates"]),
    }


def locations(tags: Mapping[str, str]) -> dict[str, str]:
    """Where the model (``uri``) of a version and its evidence lie, as far as it has tags of them,
    and ``store``, the root of all: ``BOIG_STORE`` if that holds the very model, else where it was
    registered from.

    Raises:
        CorruptError: what ``BOIG_STORE`` holds in the model's place cannot be read.
    """
    named = {key: tags[key] for key in _LOCATED if tags.get(key)}
    # Versions from before tags held places: all of an output's location but its place.
    before = tags.get("store") or re.sub(_OUTPUT_END, "", named.get("uri", ""))
    if "uri" not in named or before == named["uri"]:
        return named
    named = {key: places.locate(place, before) for key, place in named.items()} | {"store": before}
    today = environment.STORE.read()
    if today is None or store.normalize(today) == store.normalize(before):
        return named
    copied = places.in_copy(named["uri"], before, store.normalize(today), manifest.MANIFEST)
    # Another team's store may hold another model in the same place.
    if copied == named["uri"] or manifest.read_manifest(copied).digest() != tags.get("manifest"):
        return named
    root = store.normalize(today)
    del named["store"]
    moved = {key: places.locate(places.place_of(at, before), root) for key, at in named.items()}
    return {**moved, "store": root}


def verified(tags: Mapping[str, str]) -> dict[str, str]:
    """`locations` of a version whose model may be opened: where the operator gives a key to verify
    with, a signed decision must have approved it.

    Raises:
        CorruptError: none has, or what was signed has changed.
    """
    named = locations(tags)
    root, decision = named.get("store", ""), named.get("decision", "")
    evidence.require_promoted(root, decision, named.get("uri", MODEL))
    return named


def champion() -> str | None:
    """URI of the champion's folder; None before the first promotion. Raises as `model_of`."""
    return model_of("champion")


def model_of(alias: Alias) -> str | None:
    """URI of the folder of the model that an alias names; None where it names none.

    Raises:
        InputError: no tracking server is set, or the alias names a version that boig has not
            registered.
        CorruptError: as `verified`.
        InfrastructureError: MLflow does not answer.
    """
    with registry() as client:
        version = aliases(client).get(alias)
        if version is None:
            return None
        tags = client.get_model_version(MODEL, version).tags
    uri = verified(tags).get("uri") if tags.get("uri") else None
    if uri is None:
        raise InputError(
            f"{alias} of {MODEL}, version {version}",
            "has no tag uri",
            "tag it with its folder's URI, or take the alias away",
        )
    return uri


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
    located = [locations(of_version) for of_version in tags]
    return sorted({at[key] for at in located for key in ("uri", "report") if key in at})


def named_models() -> dict[str, str]:
    """Alias of each model that one names, by the model's URI; empty before the first promotion.

    Raises:
        InputError: no tracking server is set.
        InfrastructureError: MLflow does not answer.
    """
    with registry() as client:
        tags = {
            alias: client.get_model_version(MODEL, version).tags
            for alias, version in aliases(client).items()
        }
    located = {alias: locations(of_version).get("uri") for alias, of_version in tags.items()}
    return {store.normalize(uri): alias for alias, uri in located.items() if uri is not None}


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
        CorruptError: as `verified`, of the model that would become champion.
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
        verified(client.get_model_version(MODEL, before).tags)
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
