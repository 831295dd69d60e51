"""``boig doctor``: is this machine, its store and its cluster fit for a run? One line per check,
with what to do.

Checks what a run would stumble over late: Python, the package's parts, the shipped models, the
store (a real conditional put), Ray's Jobs API and MLflow. What is not configured is skipped and
says so. Leaves out: mending anything.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import typer

from boig_core.cli.options import Json, StoreRoot, store_root
from boig_core.cli.show import show
from boig_core.errors import BoigError, ClusterError, CorruptError, InputError
from boig_core.models import MODELS_FOLDER, SHIPPED
from boig_core.observability.tables import broken
from boig_core.storage import manifest, store
from boig_core.storage.credentials import refuse_secrets

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class CheckResult:
    """Result of one check; ``skipped`` means that nothing is configured to be checked."""

    check: str
    state: Literal["ok", "skipped", "failed"]
    detail: str


class _NotConfigured(Exception):
    """What the check needs is not set on this machine."""


def doctor(
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Check whether this machine is fit for a run: Python, packages, shipped models, store, Ray and
    MLflow. What is not set up is skipped; exit code 1 when a check fails."""
    findings = diagnose(store_root(store))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        show("\n".join(line for finding in findings for line in lines(finding)))
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def diagnose(store_uri: str) -> list[CheckResult]:
    """Run every check; a failed one never keeps the others from running.

    Args:
        store_uri: root of the store to probe.
    """
    checks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": _packages,
        "models": _models,
        "store": lambda: _store(store_uri),
        "ray": _ray,
        "mlflow": _mlflow,
    }
    return [_run(name, check) for name, check in checks.items()]


def lines(finding: CheckResult) -> list[str]:
    """A finding for a terminal: mark, check and detail, which goes on below where it is long."""
    mark = {"ok": "ok", "skipped": "--", "failed": "FAIL"}[finding.state]
    return broken(finding.detail, indent=" " * 15, first=f"{mark:<4} {finding.check:<9} ")


def _run(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, "ok", check())
    except _NotConfigured as exc:
        return CheckResult(name, "skipped", str(exc))
    except BoigError as exc:
        return CheckResult(name, "failed", str(exc))


def _python() -> str:
    version = sys.version.split()[0]
    # The lock is made for 3.11 and checked to resolve on 3.12.
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        raise InputError(
            f"Python {version}",
            "must be 3.11 or 3.12",
            "make the environment again with `make setup`",
        )
    return version


def _packages() -> str:
    """Both sides' versions; an image with one side alone is a sound one."""
    versions = {}
    for package in ("boig", "apache-airflow", "ray", "torch", "deepspeed", "mlflow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if not {"apache-airflow", "ray"} & set(versions):
        raise InputError(
            "neither Airflow nor Ray",
            "is installed",
            "install boig[airflow], boig[ray] or boig[demo]",
        )
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _models() -> str:
    path = MODELS_FOLDER / "manifest.json"
    remedy = "reinstall boig, or train them again with `boig tiny-models`"
    try:
        files: dict[str, dict[str, object]] = json.loads(path.read_text())["files"]
    except (OSError, ValueError, KeyError) as exc:
        raise CorruptError(path, f"cannot be read ({type(exc).__name__})", remedy) from exc
    for name, entry in files.items():
        file = MODELS_FOLDER / name
        if not file.is_file() or manifest.sha256_file(file) != entry["sha256"]:
            raise CorruptError(file, "is missing or differs from the models' manifest", remedy)
    absent = [model for model in SHIPPED if not any(name.startswith(f"{model}/") for name in files)]
    if absent:
        raise CorruptError(path, f"does not list {', '.join(absent)}", remedy)
    return f"{', '.join(SHIPPED)}: {len(files)} files as their manifest says"


def _store(uri: str) -> str:
    store.probe(uri)
    return f"{store.normalize(uri)}: writable, conditional puts are exclusive"


def _ray() -> str:
    address = _configured("RAY_API_ADDRESS")
    token = os.environ.get("RAY_AUTH_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = _get(f"{address}/api/version", headers, "set RAY_AUTH_TOKEN")
    try:
        version = str(json.loads(body)["ray_version"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ClusterError(address, "is no Ray dashboard", "correct RAY_API_ADDRESS") from exc
    return f"{address}: Ray {version}"


def _mlflow() -> str:
    address = _configured("MLFLOW_TRACKING_URI")
    if not address.startswith(("http://", "https://")):
        return f"{address}: a local store, no server to ask"
    _get(f"{address}/health", {}, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    return f"{address}: answers"


def _configured(variable: str) -> str:
    if not (value := os.environ.get(variable, "").rstrip("/")):
        raise _NotConfigured(f"{variable} is not set")
    # The checks print the address.
    refuse_secrets(value)
    return value


def _get(url: str, headers: dict[str, str], login: str) -> bytes:
    """Body of a GET.

    Raises:
        ClusterError: no answer, or an error.
    """
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    # It is a URLError, too, so it comes first.
    except HTTPError as exc:
        remedy = login if exc.code in {401, 403} else "see the server's log"
        raise ClusterError(url, f"answered {exc.code}", remedy) from exc
    except (URLError, OSError, ValueError) as exc:
        raise ClusterError(
            url,
            f"does not answer ({getattr(exc, 'reason', exc)})",
            "start it, or correct the address",
        ) from exc
