"""Airflow's plugin: makes the api-server show the store's pages (`web`) below ``/boig``.

Every Airflow process loads plugins, so nothing heavy is imported before the api-server asks for the
app.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from boig_core.orchestration.ui.links import PREFIX


class BoigPlugin(AirflowPlugin):
    """Registered by the entry point ``airflow.plugins``."""

    name = "boig"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The one app; made once, when it is first asked for."""
        from boig_core.orchestration.ui.web import create_app

        return [{"name": "boig", "app": create_app(), "url_prefix": PREFIX}]
