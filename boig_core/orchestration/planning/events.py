"""Asset events that a person has made: Airflow's REST API takes them with any content.

Leaves out: reading events (see `assets`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from boig_core.errors import InputError


def require_announced(asset: str, events: Iterable[Any]) -> None:
    """Check that events were announced by a DAG.

    Args:
        asset: name of the asset.
        events: Airflow's, each with ``extra``.

    Raises:
        InputError: one was created through the REST API, where Airflow marks it.
    """
    if any((event.extra or {}).get("from_rest_api") for event in events):
        raise InputError(
            f"event of {asset}",
            "was created by a person through Airflow's REST API, so nothing vouches for what it names",
            f"run the DAG that announces {asset}, or clear its task announce",
        )
