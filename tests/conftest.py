"""What all tests share: settings that must stand before any of them imports Airflow, and S3
servers.

Airflow's home is a temporary folder, its DAGs are this repository's. S3 is moto's server over real
HTTP, in a thread of this process, so that other processes (Ray workers, stages) reach it too; what
moto cannot prove is asked of the server at ``BOIG_TEST_S3``, too.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from boig_core import environment
from tests.costs import CostsOfTests
from tests.s3 import BUCKET, set_s3_environment

settings.register_profile("boig", deadline=None)  # timings never decide a test
settings.load_profile("boig")

REPOSITORY = Path(__file__).resolve().parents[1]

AIRFLOW_HOME = tempfile.mkdtemp(prefix="boig-airflow-")
atexit.register(shutil.rmtree, AIRFLOW_HOME, ignore_errors=True)
os.environ.update(
    {
        environment.POLICY.name: str(REPOSITORY / "tests" / "policy.yaml"),
        "AIRFLOW_HOME": AIRFLOW_HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # No scheduler has to see a worker's end where there is none.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
        # Runs in this process are triggered by `dag_test`.
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "dag_test:admin,approver:user",
        "SCARF_ANALYTICS": "false",
    }
)

SHARED = {"Installation": "airflow", "ray_cluster": "ray", "airflow_db": "airflow in process"}
"""Groups of files that one worker of pytest-xdist runs, since they share servers, by the name that
each of them has these from."""

DEAREST_FIRST = [
    "airflow",
    "ray",
    "integration/test_demo.py",
    "faults/test_ddpo_nodes.py",
    "airflow in process",
]
"""Groups that begin before all others: what takes minutes must not begin last."""


def pytest_addoption(parser: pytest.Parser) -> None:
    written = "where to write what each test file cost, in seconds of CPU and wall, as JSON"
    parser.addoption("--costs", metavar="FILE", default=".pytest_cache/costs.json", help=written)
    more = "N times as many mutations in tests/fuzz, drawn by chance instead of the same each time"
    parser.addoption("--fuzz", metavar="N", type=int, default=None, help=more)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CostsOfTests(config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file, or files that share servers, stay with one worker. (Marks of groups do nothing in
    pytest-xdist 3.8 under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is no unit test is slow; the dearest groups begin first."""
    for item in items:
        if not item.nodeid.startswith("tests/unit/"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place_of(group_of(item.nodeid)))


@functools.cache
def _group_of_file(file: str) -> str:
    text = (REPOSITORY / file).read_text()
    return next(
        (group for name, group in SHARED.items() if name in text), file.removeprefix("tests/")
    )


def group_of(nodeid: str) -> str:
    """Of files that share servers their group's name, of all others their own."""
    return _group_of_file(nodeid.partition("::")[0])


def place_of(group: str) -> int:
    return DEAREST_FIRST.index(group) if group in DEAREST_FIRST else len(DEAREST_FIRST)


@pytest.fixture
def set_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the policy of this process and those that it starts: that of all tests, with the fields
    given changed."""

    def set_(**fields: Any) -> None:
        import yaml

        tree = yaml.safe_load((REPOSITORY / "tests" / "policy.yaml").read_text())
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump({**tree, **fields}))
        monkeypatch.setenv(environment.POLICY.name, str(path))

    return set_


@pytest.fixture(scope="session")
def save_llama() -> Callable[..., None]:
    """Writes a Llama of random weights, the same at each call, with its tokenizer into a folder."""

    def save(
        folder: Path, tokenizer: Any, *, hidden: int = 32, layers: int = 1, context: int = 512
    ) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
        }
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=context, **sizes, **heads
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save


@pytest.fixture
def terminate() -> Iterator[Callable[[], None]]:
    """Sends this process a SIGTERM, which it takes as notice until the test ends."""
    from boig_core.training import preemption

    before = preemption.listen()
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    preemption.SIGNALED.clear()


class _AtomicPuts:
    """moto checks ``If-None-Match`` and writes in two steps; a lock gives its puts the atomicity of
    a real server."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        with self._lock:
            return list(self._app(environ, start_response))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    silent = type("Silent", (WSGIRequestHandler,), {"log_request": lambda *args: None})
    app = _AtomicPuts(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a bucket, with the environment that leads to it."""
    import boto3

    set_s3_environment(monkeypatch, s3_endpoint)
    boto3.session.Session().client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}"


@pytest.fixture
def real_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of an empty prefix on the server at ``BOIG_TEST_S3``, which the standard AWS variables
    have the keys of."""
    endpoint = environment.TEST_S3.read()
    if not endpoint:
        pytest.skip(
            "no real S3 server: BOIG_TEST_S3 names none (its address; the AWS variables hold its keys)"
        )
    import boto3

    from boig_core.storage import store

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    boto3.session.Session().client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    root = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    yield root
    # what the test has patched, the store's functions included, would outlive this fixture
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for path, _ in store.list_files(root):
        store.delete_file(store.join(root, path))
