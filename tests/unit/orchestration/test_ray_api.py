"""The Jobs API client against a Jobs API on a real socket: ids decide, tokens stay out of jobs, a
stop is seen."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from boig_core.errors import ClusterError, InputError
from boig_core.orchestration.jobs.asks import Ask, lacking
from boig_core.orchestration.jobs.backend import FEW, AwayError, stop_and_see
from boig_core.orchestration.jobs.ray_api import RayCluster


def call(api: Any, name: str, *arguments: Any) -> Any:
    async def run() -> Any:
        async with api.cluster.connect() as jobs:
            return await getattr(jobs, name)(*arguments)

    return asyncio.run(run())


def submit(api: Any, name: str) -> None:
    call(api, "submit", name, "python -m ray_jobs.ingest x", {"stage": "ingest"})


def test_a_duplicate_post_is_no_error_because_the_job_is_there(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    submit(api, "boig-x")
    submit(api, "boig-x")
    assert len(api.posts) == 2
    assert api.tokens == {"Bearer secret"}
    assert "secret" not in str(api.posts)
    assert api.posts[0]["entrypoint_num_cpus"] == 0


def test_a_post_that_failed_and_left_no_job_is_an_error(api: Any) -> None:
    api.fail_posts = True
    with pytest.raises(ClusterError, match="500") as caught:
        submit(api, "boig-x")
    assert not isinstance(caught.value, AwayError)


def test_a_head_that_no_node_has_joined_yet_is_away_and_asked_again(api: Any) -> None:
    api.no_node = True
    with pytest.raises(AwayError, match="No available agent"):
        submit(api, "boig-x")


@pytest.mark.parametrize("jobs", [2, FEW + 1])
def test_states_of_many_jobs_are_one_list_and_what_ray_does_not_know_is_missing(
    api: Any, jobs: int
) -> None:
    names = [f"boig-{n}" for n in range(jobs)]
    api.states = {name: ["RUNNING"] for name in [*names, "another"]}
    result = call(api, "states", [*names, "boig-gone"])
    assert {name: info.status for name, info in result.items()} == dict.fromkeys(names, "RUNNING")
    assert (api.asked == ["/api/jobs/"]) == (jobs > FEW)


def test_the_list_leaves_out_drivers_that_nobody_submitted_and_carries_metadata(api: Any) -> None:
    submit(api, "boig-x")
    result = call(api, "jobs")
    assert {name: info.metadata for name, info in result.items()} == {"boig-x": {"stage": "ingest"}}


def test_a_cluster_that_is_away_is_told_apart(api: Any) -> None:
    api.down = True
    with pytest.raises(AwayError, match="503"):
        call(api, "jobs")
    with pytest.raises(AwayError, match="does not answer"):
        call(SimpleNamespace(cluster=RayCluster("http://127.0.0.1:9")), "jobs")


def test_a_stop_returns_when_the_job_is_seen_to_be_over(api: Any) -> None:
    async def run(name: str, within_s: float) -> None:
        async with api.cluster.connect() as jobs:
            await stop_and_see(jobs, name, within_s, poll_s=0.01)

    api.states = {"boig-x": ["RUNNING"], "boig-over": ["FAILED"], "boig-deaf": ["RUNNING"]}
    api.stubborn = {"boig-deaf"}
    asyncio.run(run("boig-x", 10))
    assert api.states["boig-x"] == ["STOPPED"]
    for name in ("boig-over", "boig-unknown"):
        asyncio.run(run(name, 10))
    assert set(api.stopped) == {"boig-x"}
    with pytest.raises(ClusterError, match="boig-deaf: still RUNNING"):
        asyncio.run(run("boig-deaf", 0.05))


def connection(**fields: Any) -> Any:
    from airflow.sdk import Connection

    return Connection(conn_id="ray_default", conn_type="ray", **fields)


def test_a_connection_gives_address_and_tls_and_keeps_its_token() -> None:
    plain = RayCluster.of_connection(connection(host="ray-head"))
    assert (plain.address, plain.conn_id, plain.verify) == ("http://ray-head:8265", "", True)
    result = RayCluster.of_connection(
        connection(
            host="ray",
            port=443,
            schema="https",
            password="the-token",
            extra='{"ca_bundle": "/ca.pem"}',
        )
    )
    assert (result.address, result.conn_id, result.verify, result.ca_bundle) == (
        "https://ray:443",
        "ray_default",
        True,
        "/ca.pem",
    )
    assert "the-token" not in str(result.serialize())
    assert RayCluster(**result.serialize()) == result


def test_certificates_are_checked_unless_the_connection_says_no(tmp_path: Any) -> None:
    context = RayCluster("https://ray").tls()
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert (
        RayCluster.of_connection(connection(host="https://ray", extra='{"verify": false}')).tls()
        is False
    )
    with pytest.raises(InputError, match=r"missing\.pem"):
        RayCluster("https://ray", ca_bundle=str(tmp_path / "missing.pem")).tls()


def test_room_is_what_the_living_nodes_hold(api: Any) -> None:
    node = {"state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}}
    api.nodes = [node, {**node, "resources_total": {"CPU": 2.0}}, {**node, "state": "DEAD"}]
    assert call(api, "room", [Ask(1, 4.0, 1.0), Ask(3, 2.0)]) == ""
    short = call(api, "room", [Ask(2, 4.0, 1.0, {"pool": "learner"})])
    assert (
        short
        == "2 nodes with 10 CPUs and 1 GPUs do not hold 2 of 4 CPUs and 1 GPUs on {'pool': 'learner'}"
    )


@pytest.mark.parametrize(
    ("asks", "short"),
    [
        ([Ask(10, 0.1), Ask(1, 3.0)], []),
        (
            [Ask(2, 1.0, 0.6)],
            [Ask(2, 1.0, 0.6)],
        ),  # two shares of different GPUs' size do not meet on one
        ([Ask(1, 1.0, 0.6), Ask(1, 1.0, 0.2), Ask(1, 1.0, 0.2)], []),
        ([Ask(1, 5.0)], [Ask(1, 5.0)]),  # eight CPUs in all, four a node
        ([Ask(8, 1.0), Ask(1, 1.0, 1.0)], [Ask(8, 1.0)]),
        ([Ask(0, 4.0)], []),
    ],
)
def test_processes_are_placed_beside_each_other(asks: list[Ask], short: list[Ask]) -> None:
    assert lacking([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}], asks) == short


def test_an_address_with_credentials_is_refused_since_links_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_API_ADDRESS", "https://me:hush@ray:8265")
    with pytest.raises(InputError, match="carries credentials") as caught:
        RayCluster.find()
    assert "hush" not in str(caught.value)


def test_the_page_of_a_job_is_where_people_see_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = RayCluster("http://ray-head:8265/")
    monkeypatch.delenv("BOIG_RAY_WEB", raising=False)
    assert inside.page("boig-x") == "http://ray-head:8265/#/jobs/boig-x"
    monkeypatch.setenv("BOIG_RAY_WEB", "http://127.0.0.1:8265/")
    assert inside.page("boig-x") == "http://127.0.0.1:8265/#/jobs/boig-x"
