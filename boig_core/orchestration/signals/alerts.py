"""Alerts: one message per cause, to wherever ``BOIG_ALERT_URL`` leads.

Whoever sends first claims the cause in the store, by an exclusive put, so that tasks that fail side
by side send one message. Leaves out: when an alert is due and what it says (see `callbacks`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from boig_core import environment
from boig_core.errors import BoigError, EndpointError, InputError, NotFoundInStoreError
from boig_core.observability.logs import get_logger
from boig_core.orchestration.roots import store_root
from boig_core.storage import store

log = get_logger(__name__)

WINDOW_S: Final = 3600.0
"""Seconds in which a cause is told once: an outage is not told by each run that it ends, and one
that goes on is told again."""

CLAIMS: Final = "alerts"
"""Folder of the store with one small file per cause and window."""


@dataclass(frozen=True)
class Alert:
    """A message and what it is about.

    Attributes:
        title: one line.
        body: lines.
        cause: what tells this cause from others.
    """

    title: str
    body: tuple[str, ...]
    cause: tuple[str, ...]

    @property
    def key(self) -> str:
        """The cause as characters that a file's name may have."""
        return hashlib.sha256("\n".join(self.cause).encode()).hexdigest()[:20]


def tell(alert: Alert) -> None:
    """Send an alert, unless nobody wants any or its cause was told within `WINDOW_S`. What fails is
    logged and raises nothing."""
    address = environment.ALERT_URL.read()
    if not address:
        return
    take_back = claim(alert.key, time.time())
    if take_back is None:
        log.info("no alert: one of the same cause was sent within the last hour")
        return
    try:
        send(alert, address)
    except BoigError as exc:
        log.warning("no alert: %s", exc)
        take_back()  # the next failure of this cause tries again


def send(alert: Alert, address: str) -> None:
    """Send an alert now.

    Raises:
        InputError: the address is none of a service that Apprise knows, or Apprise is not
            installed.
        EndpointError: the service does not take it.
    """
    try:
        import apprise
    except ImportError as exc:
        raise InputError(
            environment.ALERT_URL.name,
            "needs Apprise, which is not installed",
            "install boig[airflow]",
        ) from exc
    for name in (
        "apprise",
        "urllib3",
    ):  # both write addresses, which are secret, into the log; urllib3 when it is set to DEBUG
        logging.getLogger(name).setLevel(logging.CRITICAL)
    services = apprise.Apprise()
    if not services.add(address):
        rule = "holds an address that no service of Apprise has"
        raise InputError(
            environment.ALERT_URL.name,
            rule,
            "see https://appriseit.com/services; `apprise -vv -b test ADDRESS` tries one",
        )
    body = "\n".join([*alert.body, "The same cause is not told again within an hour."])
    if not services.notify(
        body,
        title=alert.title,
        notify_type=apprise.NotifyType.FAILURE,
        body_format=apprise.NotifyFormat.TEXT,
    ):
        names = ", ".join(sorted({str(service.service_name) for service in services}))
        raise EndpointError(
            environment.ALERT_URL.name,
            f"was not taken by all of: {names}",
            "`apprise -vv -b test ADDRESS` says why",
        )


def claim(key: str, now: float) -> Callable[[], None] | None:
    """Take a cause for the one who asks.

    The store remembers, since exactly one of many who ask at once gets it there. Where the store is
    away, Airflow's Variables do: two who ask at once may both get it then. Where neither answers,
    whoever asks gets it.

    Args:
        key: the cause.
        now: seconds since 1970.

    Returns:
        What takes the claim back; None: another has had it within `WINDOW_S`.
    """
    try:
        return _claim_in_store(store.join(store_root(), CLAIMS), key, now)
    except BoigError as exc:
        log.info("the store does not remember alerts (%s), so Airflow's Variables do", exc)
    try:
        return _claim_in_airflow(f"boig_alert_{key}", now)
    except Exception as exc:  # Airflow's own, of many kinds
        log.warning("nothing remembers this alert, so it may be sent again: %s", exc)
        # An alert too many is better than none.
        return lambda: None


def _claim_in_store(folder: str, key: str, now: float) -> Callable[[], None] | None:
    # Windows are those of the clock, so the hour of a cause may reach into the next one: a claim of
    # the window before counts until it is an hour old.
    window = int(now // WINDOW_S)
    mine, before = (store.join(folder, f"{key}-{number}.json") for number in (window, window - 1))
    try:
        if now - json.loads(store.read_bytes(before))["at"] < WINDOW_S:
            return None
    except NotFoundInStoreError:
        pass
    # `by` makes these bytes the writer's own: by them it sees that it came first, even after a lost
    # answer.
    if not store.put_if_absent(mine, json.dumps({"at": now, "by": uuid.uuid4().hex}).encode()):
        return None
    return lambda: store.delete_file(mine)


def _claim_in_airflow(name: str, now: float) -> Callable[[], None] | None:
    from airflow.sdk import Variable

    if now - float(Variable.get(name, default="0")) < WINDOW_S:
        return None
    Variable.set(name, str(now))
    return lambda: Variable.set(name, "0")
