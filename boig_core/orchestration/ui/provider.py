"""What Airflow is told of boig as a provider: the connection type ``ray`` with its form, the hook,
the extra links.

Read by Airflow through the entry point ``apache_airflow_provider``; imports nothing, since every
Airflow process calls it.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Provider info, in the shape of Airflow's ``provider_info.schema.json``."""
    room = "boig_core.orchestration"
    fields = {
        "verify": {
            "label": "Check the server's certificate",
            "schema": {"type": ["boolean", "null"], "default": True},
            "description": "Matters with https only. Leave it on, and name the authority below where it is your own.",
        },
        "ca_bundle": {
            "label": "CA bundle",
            "schema": {"type": ["string", "null"]},
            "description": "PEM file with the authorities to trust, on workers and triggerers. Empty: the system's.",
        },
    }
    form = {
        "hidden-fields": ["login", "extra"],
        "relabeling": {"schema": "Scheme", "password": "Token", "port": "Dashboard port"},
        "placeholders": {
            "host": "ray-head",
            "port": "8265",
            "schema": "http or https",
            "password": "empty: RAY_AUTH_TOKEN",
        },
    }
    return {
        "package-name": "boig",
        "name": "boig",
        "description": "Stages of boig as Ray jobs: operator, trigger, hook and links.",
        "integrations": [
            {
                "integration-name": "Ray",
                "external-doc-url": "https://docs.ray.io/",
                "tags": ["service"],
            }
        ],
        "operators": [{"integration-name": "Ray", "python-modules": [f"{room}.stage.operator"]}],
        "triggers": [{"integration-name": "Ray", "python-modules": [f"{room}.jobs.trigger"]}],
        "hooks": [{"integration-name": "Ray", "python-modules": [f"{room}.jobs.hook"]}],
        "connection-types": [
            {
                "connection-type": "ray",
                "hook-class-name": f"{room}.jobs.hook.RayHook",
                "hook-name": "Ray",
                "conn-fields": fields,
                "ui-field-behaviour": form,
            }
        ],
        "extra-links": [
            f"{room}.ui.links.{link}"
            for link in ("RayJobLink", "MlflowRunLink", "DataCardLink", "ReportLink")
        ],
    }
