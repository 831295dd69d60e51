"""What installs and starts boig: the lock, the extras, the compose file and its secrets agree with
each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines()
    )
}


def extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        extra: [Requirement(text) for text in texts]
        for extra, texts in {
            "": project["dependencies"],
            **project["optional-dependencies"],
        }.items()
    }


def test_lock_pins_everything_but_torch_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^\s@;]+", line) for line in text.splitlines()), (
        "only NAME==VERSION lines"
    )
    assert "torch" not in LOCK
    assert not [name for name in LOCK if name.startswith(("nvidia", "triton", "cuda"))]
    wanted = [
        result
        for texts in extras().values()
        for result in texts
        if result.name not in {"boig", "torch"}
    ]
    assert len(wanted) > 30
    for requirement in wanted:
        assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_images_take_one_side_only() -> None:
    sides = {
        extra: {canonicalize_name(requirement.name) for requirement in result}
        for extra, result in extras().items()
    }
    assert not {"torch", "ray", "transformers", "deepspeed"} & (
        sides[""] | sides["airflow"] | sides["postgres"]
    )
    assert not [name for name in sides[""] | sides["ray"] if "airflow" in name]
    for image, asked in {"airflow": {"airflow", "postgres"}, "ray": {"ray"}}.items():
        text = (ROOT / "infra" / "docker" / f"{image}.Dockerfile").read_text()
        assert set(re.findall(r"--extra (\w+)", text)) == asked
        assert "-c requirements.lock" in text


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    result: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return result


def test_every_port_stays_on_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_and_its_secrets_agree(compose: dict[str, Any]) -> None:
    script = ROOT / "infra" / "docker" / "write-env.sh"
    runs = [
        dict(
            line.split("=", 1)
            for line in subprocess.run(
                [script], capture_output=True, text=True, check=True
            ).stdout.splitlines()
        )
        for _ in range(2)
    ]
    used = set(re.findall(r"\$\{([A-Z0-9_]+):-\}", (ROOT / "docker-compose.yml").read_text()))
    assert used == set(runs[0]) - {"S3_BUCKET"}
    assert all(
        len(value) >= 16 and value != runs[1][key]
        for key, value in runs[0].items()
        if key != "S3_BUCKET"
    ), "drawn afresh"
    assert "minio" not in str(compose).lower()
    assert compose["services"]["ray-head"]["environment"]["RAY_AUTH_MODE"] == "token"


ONCE = {"s3-init", "airflow-init"}
"""Services that end by themselves."""


def test_up_waits_for_every_service_and_none_for_one_that_never_says(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert {name for name, service in services.items() if "healthcheck" not in service} == ONCE
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ends = needed in ONCE
            assert how["condition"] == (
                "service_completed_successfully" if ends else "service_healthy"
            ), (name, needed)
    # docker compose up --wait takes an end for a failure, unless another service waits for just
    # that.
    needs = [service.get("depends_on", {}) for service in services.values()]
    assert all(any(once in needed for needed in needs) for once in ONCE)


def test_each_image_of_ours_is_built_once_and_never_pulled(compose: dict[str, Any]) -> None:
    ours = [
        service for service in compose["services"].values() if service["image"].startswith("boig-")
    ]
    assert len(ours) == 7
    assert all(service["pull_policy"] == "never" for service in ours)
    built = {service["image"]: service["build"] for service in ours if "build" in service}
    assert len([service for service in ours if "build" in service]) == len(built) == 2
    assert all(
        (ROOT / build["context"] / build["dockerfile"]).is_file() for build in built.values()
    )


def test_what_is_mounted_stands_in_the_repository(compose: dict[str, Any]) -> None:
    mounts = [
        mount.split(":")
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
    ]
    named = {source for source, *_ in mounts if not source.startswith("./")}
    assert named == set(compose["volumes"])
    files = {
        target.rstrip("/"): ROOT / source
        for source, target, *_ in mounts
        if source.startswith("./")
    }
    assert len(files) >= 3
    assert all(path.exists() for path in files.values())
    assert all(mode == ["ro"] for source, _, *mode in mounts if source.startswith("./"))


def test_scripts_of_the_stack_are_sound() -> None:
    scripts = [*ROOT.glob("infra/docker/*.sh"), *ROOT.glob("infra/s3/*.sh")]
    assert len(scripts) == 4
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)


def test_prometheus_collects_where_the_stack_exports(compose: dict[str, Any]) -> None:
    path = ROOT / "infra" / "monitoring" / "prometheus.yml"
    airflow, ray = yaml.safe_load(path.read_text())["scrape_configs"]
    assert airflow["static_configs"] == [{"targets": ["statsd-exporter:9102"]}]
    settings = compose["services"]["airflow-scheduler"]["environment"]
    assert settings["AIRFLOW__METRICS__STATSD_HOST"] == "statsd-exporter"
    (result,) = ray["dns_sd_configs"]
    for name in result["names"]:
        assert f"--metrics-export-port={result['port']}" in compose["services"][name]["command"]
    assert set(result["names"]) == {name for name in compose["services"] if name.startswith("ray-")}
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", path], check=True)


def test_env_is_never_committed() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
