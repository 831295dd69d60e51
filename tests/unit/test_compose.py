"""The compose stack: what starts after what, who reaches whom, who may do what, and what each
container is held to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from boig_core.config import read_policy

ROOT = Path(__file__).resolve().parents[2]
STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
SECRETS = {
    name: set(re.findall(r"\$\{([A-Z0-9_]+):-\}", json.dumps(service)))
    for name, service in SERVICES.items()
}
"""What each service is told of `.env`."""
AIRFLOW = {name for name in SERVICES if name.startswith("airflow-")}
RAY = {name for name in SERVICES if name.startswith("ray-")}


def unconfined(service: dict[str, Any]) -> list[str]:
    """What a container could do that none of the stack needs, and what it lacks of a limit."""
    size = re.fullmatch(r"(?:\$\{[A-Z_]+:-)?(\d+)([mg])\}?", str(service.get("mem_limit")))
    mounts = [str(mount) for mount in service.get("volumes", [])]
    apart = service.get("networks") or str(service.get("network_mode")).startswith("service:")
    faults = {
        "keeps capabilities": service.get("cap_drop") != ["ALL"] or "cap_add" in service,
        "may gain rights": service.get("security_opt") != ["no-new-privileges:true"],
        "writes to its image": service.get("read_only") is not True,
        "takes any memory": size is None or int(size[1]) == 0,
        "starts any number of processes": not 0 < service.get("pids_limit", 0) <= 8192,
        "stands in the network of all": not apart,
        "has rights of the host": bool(
            {"privileged", "devices", "pid", "ipc", "userns_mode", "cgroup"} & set(service)
        ),
        "reaches Docker": any("docker.sock" in mount for mount in mounts),
        "is root": str(service.get("user")).split(":")[0] in {"root", "0"},
    }
    return [fault for fault, there in faults.items() if there]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined(name: str) -> None:
    assert unconfined(SERVICES[name]) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"cap_drop": ["NET_RAW"]}, "keeps capabilities"),
        ({"cap_add": ["SYS_ADMIN"]}, "keeps capabilities"),
        ({"security_opt": None}, "may gain rights"),
        ({"read_only": None}, "writes to its image"),
        ({"mem_limit": None}, "takes any memory"),
        ({"mem_limit": "${MEMORY:-}"}, "takes any memory"),
        ({"pids_limit": -1}, "starts any number of processes"),
        ({"networks": None}, "stands in the network of all"),
        ({"networks": None, "network_mode": "host"}, "stands in the network of all"),
        ({"privileged": True}, "has rights of the host"),
        ({"volumes": ["/var/run/docker.sock:/d.sock"]}, "reaches Docker"),
        ({"user": "0:0"}, "is root"),
    ],
    ids=str,
)
def test_a_service_that_is_not_confined_is_named(change: dict[str, Any], fault: str) -> None:
    changed = {**SERVICES["airflow-scheduler"], **change}
    changed = {key: value for key, value in changed.items() if value is not None}
    assert unconfined(changed) == [fault]


def test_images_of_ours_leave_root() -> None:
    for path in (ROOT / "infra" / "docker").glob("*.Dockerfile"):
        users = re.findall(r"^USER (\w+)$", path.read_text(), re.MULTILINE)
        assert users, path
        assert users[-1] != "root", path


TIERS = {
    "front": {"airflow-api-server", "s3", "mlflow", "prometheus"},
    "airflow": AIRFLOW - {"airflow-init"} | {"statsd-exporter", "prometheus"},
    "compute": RAY | {"airflow-scheduler", "airflow-triggerer", "prometheus"},
    "store": RAY | AIRFLOW - {"airflow-init"} | {"s3", "mlflow", "mlflow-init"},
    "db": AIRFLOW | {"postgres"},
}
"""Who stands in each network."""


def test_each_service_stands_in_the_tiers_alone_that_it_needs() -> None:
    members: dict[str, set[str]] = {tier: set() for tier in STACK["networks"]}
    for name, service in SERVICES.items():
        for tier in service.get("networks", []):
            members[tier].add(name)
    assert members == TIERS
    assert SERVICES["s3-init"]["network_mode"] == "service:s3"


def test_no_tier_is_a_way_around_another() -> None:
    """Ports are published from networks with a way out, and neighbors in front do not meet."""
    settings = STACK["networks"]
    closed = {name for name, network in settings.items() if (network or {}).get("internal")}
    assert closed == {"store", "db"}
    apart = {"com.docker.network.bridge.enable_icc": "false"}
    assert settings["front"]["driver_opts"] == apart
    for name, service in SERVICES.items():
        if "ports" in service:
            assert set(service["networks"]) - closed, name


def meet(one: str, other: str) -> bool:
    """Whether two services can talk to each other."""
    return any({one, other} <= members for tier, members in TIERS.items() if tier != "front")


def test_whoever_is_asked_can_be_reached_and_nobody_else_reaches_a_database() -> None:
    asks = {
        "airflow-api-server": {"postgres", "s3", "statsd-exporter"},
        "airflow-scheduler": {"airflow-api-server", "postgres", "ray-head", "s3", "mlflow"},
        "airflow-dag-processor": {"airflow-api-server", "postgres", "s3"},
        "airflow-triggerer": {"airflow-api-server", "postgres", "ray-head", "s3", "mlflow"},
        "airflow-init": {"postgres"},
        "ray-head": {"s3", "mlflow"},
        "ray-worker": {"ray-head", "s3", "mlflow"},
        "mlflow-init": {"mlflow"},
        "prometheus": {"statsd-exporter", "ray-head", "ray-worker"},
    }
    for name, others in asks.items():
        assert all(meet(name, other) for other in others), name
    apart = {("postgres", other) for other in set(SERVICES) - AIRFLOW - {"postgres"}}
    apart |= {("statsd-exporter", name) for name in RAY | {"s3", "mlflow"}}
    apart |= {("prometheus", "s3"), ("prometheus", "mlflow"), ("ray-head", "airflow-init")}
    assert not [pair for pair in apart if meet(*pair)]


def test_each_secret_is_told_to_whom_it_is_for() -> None:
    stages = {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"}
    knows = {
        "POSTGRES_PASSWORD": AIRFLOW | {"postgres"},
        "AIRFLOW_FERNET_KEY": AIRFLOW,
        "AIRFLOW_JWT_SECRET": AIRFLOW,
        "AIRFLOW_ADMIN_PASSWORD": {"airflow-init"},
        "AIRFLOW_APPROVER_PASSWORD": {"airflow-init"},
        "RAY_AUTH_TOKEN": RAY | {"airflow-scheduler", "airflow-triggerer"},
        "MLFLOW_ADMIN_PASSWORD": {"mlflow", "mlflow-init"},
        "MLFLOW_FORM_SECRET": {"mlflow"},
        "MLFLOW_AIRFLOW_PASSWORD": {"mlflow-init"} | stages,
        "MLFLOW_RAY_PASSWORD": {"mlflow-init"} | RAY,
    }
    for part in ("ACCESS_KEY", "SECRET_KEY"):
        knows[f"S3_{part}"] = {"s3"}
        knows[f"S3_AIRFLOW_{part}"] = {"s3"} | stages
        knows[f"S3_RAY_{part}"] = {"s3"} | RAY
        knows[f"S3_WEB_{part}"] = {"s3", "airflow-api-server"}
    for secret, services in knows.items():
        assert {name for name, told in SECRETS.items() if secret in told} == services, secret
    assert set().union(*SECRETS.values()) == set(knows)
    mounts = {name: str(service.get("volumes")) for name, service in SERVICES.items()}
    sees = {name for name, volumes in mounts.items() if "airflow-secrets" in volumes}
    assert sees == {"airflow-init", "airflow-api-server"}, "the admin's password in plain text"


def test_airflow_and_ray_read_one_policy_that_names_an_approver() -> None:
    policy = read_policy(ROOT / "infra" / "docker" / "policy.yaml")
    users = dict(
        user.split(":")
        for user in STACK["x-airflow"]["environment"][
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"
        ].split(",")
    )
    assert {approver.id for approver in policy.approvers} == {"approver"} < set(users)
    for name in (AIRFLOW | RAY) - {"airflow-init"}:
        service = SERVICES[name]
        assert service["environment"]["BOIG_POLICY"] == "/etc/boig/policy.yaml", name
        assert STACK["x-policy"] in service["volumes"], name


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
    assert {name for names in SECRETS.values() for name in names} == set(runs[0]) - {"S3_BUCKET"}
    assert all(
        len(value) >= 16 and value != runs[1][key]
        for key, value in runs[0].items()
        if key != "S3_BUCKET"
    ), "drawn afresh"
    assert "minio" not in str(compose).lower()
    assert compose["services"]["ray-head"]["environment"]["RAY_AUTH_MODE"] == "token"


ONCE = {"s3-init", "mlflow-init", "airflow-init"}
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
    assert len(ours) == 9
    assert all(service["pull_policy"] == "never" for service in ours)
    built = {service["image"]: service["build"] for service in ours if "build" in service}
    assert len([service for service in ours if "build" in service]) == len(built) == 3
    assert all(
        (ROOT / build["context"] / build["dockerfile"]).is_file() for build in built.values()
    )


def test_what_is_mounted_stands_in_the_repository(compose: dict[str, Any]) -> None:
    mounts = [
        mount.split(":")
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
        if ":" in mount  # else a volume of the container's own
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


def drawn_secrets() -> dict[str, str]:
    """An `.env` as it is written for a new stack."""
    script = ROOT / "infra" / "docker" / "write-env.sh"
    result = subprocess.run([script], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def start_s3(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the start of the S3 server with a `weed` that prints what it is told."""
    weed = folder / "weed"
    weed.write_text('#!/bin/sh\necho "$@"\n')
    weed.chmod(0o755)
    return subprocess.run(
        ["sh", ROOT / "infra" / "s3" / "start.sh"],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder), **env},
        capture_output=True,
        text=True,
    )


def test_each_role_may_do_in_the_store_what_it_needs(tmp_path: Path) -> None:
    env = drawn_secrets()
    result = start_s3(tmp_path, env)
    assert result.returncode == 0, result.stderr
    written = tmp_path / "s3.json"
    assert written.stat().st_mode & 0o077 == 0
    users = {user["name"]: user for user in json.loads(written.read_text())["identities"]}
    assert set(users) == {"airflow", "ray", "web", "person"}, "and nobody without a key"
    for name, prefix in {
        "airflow": "S3_AIRFLOW",
        "ray": "S3_RAY",
        "web": "S3_WEB",
        "person": "S3",
    }.items():
        (login,) = users[name]["credentials"]
        assert login == {
            "accessKey": env[f"{prefix}_ACCESS_KEY"],
            "secretKey": env[f"{prefix}_SECRET_KEY"],
        }

    def may(name: str, action: str, key: str) -> bool:
        """As SeaweedFS decides: a pattern with `*` holds for keys, a bucket for all of it."""
        return any(
            f"{action}:boig" == allowed
            or ("*" in allowed and fnmatchcase(f"{action}:boig/{key}", allowed))
            for allowed in users[name]["actions"]
        )

    glance = (ROOT / "docs" / "reference" / "files.md").read_text()
    glance = glance.split("## The store at a glance")[1].split("```")[1]
    folders = set(re.findall(r"^(\.?[a-z]+)/", glance, re.MULTILINE))
    assert len(folders) >= 8
    attempt = "runs/boig_sd/manual__1/ddpo/attempt-1/commit.json"
    keys = {f"{folder}/x/manifest.json" for folder in folders} | {attempt, "posts/a.jsonl"}
    assert all(
        may(name, action, key) for name in users for action in ("Read", "List") for key in keys
    )
    assert {key for key in keys if not may("airflow", "Write", key)} == set()
    assert {key for key in keys if not may("ray", "Write", key)} == {
        "posts/a.jsonl",
        ".probe/x/manifest.json",
        ".trash/x/manifest.json",
        "alerts/x/manifest.json",
        "forgotten/x/manifest.json",
        "runs/x/manifest.json",
    }, "of a run its attempts alone: what was decided and told is Airflow's"
    assert [key for key in keys if may("web", "Write", key)] == []
    assert [key for key in keys if may("person", "Write", key)] == ["posts/a.jsonl"]
    kinds = {action.split(":")[0] for user in users.values() for action in user["actions"]}
    assert kinds == {"Read", "List", "Write"}, "nobody makes or removes a bucket by its keys"


def test_nothing_but_s3_answers_outside_of_its_container(tmp_path: Path) -> None:
    """Filer, master and volumes ask nobody for a key: who reaches them is beyond all users."""
    told = set(start_s3(tmp_path, drawn_secrets()).stdout.split())
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= told
    assert {"-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"} <= told
    assert "-master=127.0.0.1:9333" in (ROOT / "infra" / "s3" / "create-bucket.sh").read_text()


@pytest.mark.parametrize(
    "missing", sorted(name for name in SECRETS["s3"] if name.startswith("S3_"))
)
def test_the_store_does_not_start_without_a_key(tmp_path: Path, missing: str) -> None:
    for value in ("", None):
        env = {**drawn_secrets(), missing: value}
        result = start_s3(tmp_path, {key: text for key, text in env.items() if text is not None})
        assert result.returncode != 0
        assert not result.stdout


def test_secrets_that_a_newer_version_asks_for_are_added_to_env(tmp_path: Path) -> None:
    (tmp_path / "infra" / "docker").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "infra/docker/write-env.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = "POSTGRES_PASSWORD=as it was\n# a note\nBOIG_ROOTS=/opt/recipes"  # and no end of line
    (tmp_path / ".env").write_text(old)
    os.utime(tmp_path / ".env", (0, 0))
    subprocess.run(["make", ".env"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / ".env").read_text()
    assert text.startswith(old + "\n")
    names = re.findall(r"^([A-Z0-9_]+)=.", text, re.MULTILINE)
    assert sorted(names) == sorted({*drawn_secrets(), "BOIG_ROOTS"}), "each once"
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
