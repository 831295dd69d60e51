"""boig is an Airflow provider: what it says of itself is valid, leads to things that are there, and
gives a form and a test button."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from boig_core.orchestration.jobs.hook import RayHook
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.orchestration.ui.provider import get_provider_info

ROOT = Path(__file__).resolve().parents[3]


def find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_the_info_is_valid_and_registered_under_the_packages_name() -> None:
    info = get_provider_info()
    for schema in ("provider_info.schema.json", "provider.yaml.schema.json"):
        wanted = json.loads(resources.files("airflow").joinpath(schema).read_text())
        part = info if schema.startswith("provider_info") else info["connection-types"]
        rules = (
            wanted
            if schema.startswith("provider_info")
            else wanted["properties"]["connection-types"]
        )
        jsonschema.validate(part, rules)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert info["package-name"] == project["name"]
    module, _, name = project["entry-points"]["apache_airflow_provider"]["provider_info"].partition(
        ":"
    )
    assert find(f"{module}.{name}")() == info


def test_what_it_names_is_there() -> None:
    info = get_provider_info()
    [connection] = info["connection-types"]
    assert find(connection["hook-class-name"]) is RayHook
    assert connection["connection-type"] == RayHook.conn_type
    assert {find(path) for path in info["extra-links"]} == {
        type(link) for link in RayJobOperator.operator_extra_links
    }
    for kind in ("operators", "triggers", "hooks"):
        assert [import_module(name) for place in info[kind] for name in place["python-modules"]]


def test_reading_it_imports_nothing_heavy() -> None:
    script = "import sys; from boig_core.orchestration.ui.provider import get_provider_info; get_provider_info(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"airflow", "aiohttp", "pyarrow", "pydantic"} & set(done.stdout.split())


def test_the_button_says_whether_ray_answers(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.states["boig-x"] = ["RUNNING"]
    host, _, port = api.address.removeprefix("http://").partition(":")
    connection = {"conn_type": "ray", "host": host, "port": int(port), "password": "the-token"}
    monkeypatch.setenv("AIRFLOW_CONN_RAY_TEST", json.dumps(connection))
    hook = RayHook("ray_test")

    async def used() -> int:
        async with hook.get_conn() as jobs:
            return len(await jobs.jobs())

    assert asyncio.run(used()) == 1
    assert hook.test_connection() == (True, "Ray answers; it knows 1 jobs")
    assert api.tokens == {"Bearer the-token"}
    api.down = True
    assert hook.test_connection()[0] is False
