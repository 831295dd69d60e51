"""Jobs as RayJobs against Kubernetes' API on a real socket: the name decides, a stop is seen, a
state is never guessed."""

from __future__ import annotations

import asyncio
import builtins
import json
from typing import Any

import pytest
import yaml

from boig_core.errors import ClusterError, InputError
from boig_core.orchestration.jobs import clusters
from boig_core.orchestration.jobs.asks import Ask
from boig_core.orchestration.jobs.backend import FEW, AwayError, stop_and_see
from boig_core.orchestration.jobs.kuberay import KubeRayCluster
from boig_core.orchestration.jobs.ray_api import RayCluster
from boig_core.orchestration.jobs.rayjob import name_of
from tests.unit.orchestration.kuberay.api import TOKEN, KubeApi


def call(api: KubeApi, name: str, *arguments: Any) -> Any:
    async def run() -> Any:
        async with api.cluster.connect() as jobs:
            return await getattr(jobs, name)(*arguments)

    return asyncio.run(run())


def submit(api: KubeApi, name: str = "boig-x") -> None:
    call(api, "submit", name, "python -m ray_jobs.ddpo x", {"stage": "ddpo"}, [Ask(2, 4.0, 1.0)])


def status(api: KubeApi, **fields: str) -> Any:
    api.states["boig-x"] = [fields]
    return call(api, "states", ["boig-x"])["boig-x"]


def test_a_job_is_created_once_with_the_pods_that_it_asks_for(kube_api: KubeApi) -> None:
    submit(kube_api)
    submit(kube_api)
    assert [
        post["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] for post in kube_api.posts
    ] == [2, 2]
    result = call(kube_api, "jobs")
    assert {name: (info.status, info.metadata) for name, info in result.items()} == {
        "boig-x": ("RUNNING", {"stage": "ddpo"})
    }


def test_whether_it_is_there_decides_after_a_lost_answer(kube_api: KubeApi) -> None:
    kube_api.lose = True
    submit(kube_api)
    kube_api.lose, kube_api.fail_posts = False, True
    submit(kube_api)
    with pytest.raises(AwayError, match="500"):
        submit(kube_api, "boig-y")


def test_an_id_longer_than_a_name_is_found_again(kube_api: KubeApi) -> None:
    long = f"boig-{'ddpo-' * 12}a1-0123456789ab"
    submit(kube_api, long)
    assert kube_api.posts[0]["metadata"] == {"stage": "ddpo"}
    assert list(call(kube_api, "states", [long, f"{long[:-1]}c"])) == [long]
    assert kube_api.asked[-1].endswith(("/" + name_of(long), "/" + name_of(f"{long[:-1]}c")))


def test_a_field_that_a_rayjob_has_not_is_a_user_error_that_names_it(kube_api: KubeApi) -> None:
    base = yaml.safe_load(kube_api.base.read_text())
    base["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "imagePulPolicy"
    ] = "Always"
    kube_api.write_base(base)
    with pytest.raises(InputError, match="imagePulPolicy"):
        submit(kube_api)
    assert kube_api.states == {}


def test_what_kuberay_refuses_later_ends_the_job_with_its_reason(kube_api: KubeApi) -> None:
    base = yaml.safe_load(kube_api.base.read_text())
    del base["spec"]["rayClusterSpec"]["rayVersion"]
    kube_api.write_base(base)
    submit(kube_api)
    info = call(kube_api, "states", ["boig-x"])["boig-x"]
    assert (info.status, info.message) == ("FAILED", "ValidationFailed: token without rayVersion")


@pytest.mark.parametrize("jobs", [2, FEW + 1])
def test_states_of_many_jobs_are_one_list_and_what_is_not_there_is_missing(
    kube_api: KubeApi, jobs: int
) -> None:
    names = [f"boig-{n}" for n in range(jobs)]
    kube_api.states = {name: ["RUNNING"] for name in [*names, "another"]}
    assert set(call(kube_api, "states", [*names, "boig-gone"])) == set(names)
    assert (len(kube_api.asked) == 1) == (jobs > FEW)


@pytest.mark.parametrize(
    "deployment",
    ["", "Initializing", "Waiting", "Suspended", "Suspending", "Retrying", "SomethingNew"],
)
def test_a_job_that_waits_for_queue_cluster_or_pods_is_live(
    kube_api: KubeApi, deployment: str
) -> None:
    info = status(kube_api, jobDeploymentStatus=deployment)
    assert (info.status, info.live) == ("PENDING", True)


@pytest.mark.parametrize(
    ("deployment", "job", "word"),
    [
        ("Running", "", "PENDING"),
        ("Running", "PENDING", "PENDING"),
        ("Running", "RUNNING", "RUNNING"),
        ("Suspending", "RUNNING", "RUNNING"),
        ("Running", "SUCCEEDED", "SUCCEEDED"),
        ("Complete", "SUCCEEDED", "SUCCEEDED"),
        ("Complete", "STOPPED", "STOPPED"),
        ("Failed", "FAILED", "FAILED"),
        ("Failed", "RUNNING", "FAILED"),
        ("Failed", "", "FAILED"),
        ("ValidationFailed", "", "FAILED"),
    ],
)
def test_two_statuses_are_one_state(
    kube_api: KubeApi, deployment: str, job: str, word: str
) -> None:
    assert status(kube_api, jobDeploymentStatus=deployment, jobStatus=job).status == word


def test_a_deadline_says_so(kube_api: KubeApi) -> None:
    info = status(
        kube_api,
        jobDeploymentStatus="Failed",
        jobStatus="RUNNING",
        reason="DeadlineExceeded",
        message="passed 60 s",
    )
    assert info.message == "DeadlineExceeded: passed 60 s"


def test_a_stop_returns_when_the_pods_are_gone(kube_api: KubeApi) -> None:
    async def run(name: str, within_s: float) -> None:
        async with kube_api.cluster.connect() as jobs:
            await stop_and_see(jobs, name, within_s, poll_s=0.01)

    kube_api.states = {
        "boig-x": ["RUNNING"],
        "boig-over": ["FAILED"],
        "boig-queued": [{"jobDeploymentStatus": "Suspended"}],
    }
    for name in ("boig-x", "boig-over", "boig-queued", "boig-unknown"):
        asyncio.run(run(name, 10))
    assert kube_api.states == {"boig-over": ["FAILED"]}
    assert kube_api.policies == {"Foreground"}
    kube_api.states["boig-deaf"], kube_api.stubborn = ["SUCCEEDED"], {"boig-deaf"}
    call(kube_api, "stop", "boig-deaf")
    with pytest.raises(ClusterError, match="boig-deaf: still RUNNING"):
        asyncio.run(run("boig-deaf", 0.05))


def test_a_server_that_is_away_is_told_apart_from_one_that_refuses(
    kube_api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube_api.states["boig-x"], kube_api.fail_stops = ["RUNNING"], {"boig-x"}
    with pytest.raises(ClusterError, match="403") as caught:
        call(kube_api, "stop", "boig-x")
    assert not isinstance(caught.value, AwayError)
    kube_api.down = True
    with pytest.raises(AwayError, match="503"):
        call(kube_api, "jobs")
    kube_api.address = "http://127.0.0.1:9"
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT", kube_api.environment()["AIRFLOW_CONN_KUBERNETES_DEFAULT"]
    )
    with pytest.raises(AwayError, match="does not answer"):
        call(kube_api, "jobs")


def test_the_token_goes_to_kubernetes_and_nowhere_else(kube_api: KubeApi) -> None:
    submit(kube_api)
    assert kube_api.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in json.dumps([kube_api.posts, kube_api.cluster.serialize()])


def test_a_session_outlives_its_token(
    kube_api: KubeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": str(path)}}),
    )

    def renew(token: str) -> None:
        kube_api.token = token
        path.write_text(kube_api.kube_config())

    async def run() -> list[str]:
        async with kube_api.cluster.connect() as jobs:
            assert set(await jobs.jobs()) == {"boig-x"}
            renew("second")
            with pytest.raises(AwayError, match="401"):
                await jobs.jobs()
            return list(await jobs.jobs())

    kube_api.states["boig-x"] = ["RUNNING"]
    renew("first")
    assert asyncio.run(run()) == ["boig-x"]
    assert kube_api.tokens == {"Bearer first", "Bearer second"}


def test_the_environment_chooses_and_a_trigger_finds_the_same_again(
    kube_api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = clusters.find()
    assert result == KubeRayCluster(
        str(kube_api.base), "boig", "kubernetes_default", "https://k8s/{namespace}/{name}"
    )
    assert clusters.restore(json.loads(json.dumps(result.serialize()))) == result
    assert result.page("boig-x") == "https://k8s/boig/boig-x"
    monkeypatch.delenv("BOIG_KUBERAY")
    monkeypatch.setenv("RAY_API_ADDRESS", "http://ray:8265")
    result = clusters.find()
    assert result == RayCluster("http://ray:8265")
    assert clusters.restore(result.serialize()) == result


def test_without_a_connection_the_pod_or_the_users_kubeconfig_leads_to_kubernetes(
    kube_api: KubeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kube_api.kube_config())
    kube_api.states["boig-x"] = ["RUNNING"]
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": str(path)}}),
    )
    assert list(call(kube_api, "jobs")) == ["boig-x"]
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    assert kube_api.cluster.conn_id == ""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(InputError, match="no way to Kubernetes"):  # no service account lies here
        call(kube_api, "jobs")


def test_a_missing_client_names_the_extra(
    kube_api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "kubernetes_asyncio":
            raise ModuleNotFoundError("No module named 'kubernetes_asyncio'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"boig\[airflow,kuberay\]"):
        call(kube_api, "jobs")


def test_room_is_a_worker_group_that_holds_each_process(kube_api: KubeApi) -> None:
    assert call(kube_api, "room", [Ask(2, 4.0, 1.0)]) == ""
    with pytest.raises(InputError):
        call(kube_api, "room", [Ask(1, 4.0, 64.0)])
    assert kube_api.posts == []
