"""The Jobs API client against a Jobs API on a real socket: ids decide, tokens stay out of jobs, a stop is seen."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from boig_core.errors import ClusterError, InputError
from boig_core.orchestration.jobs import FEW, AwayError, stop_and_see
from boig_core.orchestration.ray_api import RayCluster


def call(api: Any, name: str, *arguments: Any) -> Any:
    async def run() -> Any:
        async with api.cluster.connect() as jobs:
            return await getattr(jobs, name)(*arguments)

    return asyncio.run(run())


def submit(api: Any, name: str) -> None:
    call(api, "submit", name, "python -m ray_jobs.ingest x", {"stage": "ingest"})


def test_a_duplicate_post_is_no_error_because_the_job_is_there(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_states_of_many_jobs_are_one_list_and_what_ray_does_not_know_is_missing(api: Any, jobs: int) -> None:
    names = [f"boig-{n}" for n in range(jobs)]
    api.states = {name: ["RUNNING"] for name in [*names, "another"]}
    found = call(api, "states", [*names, "boig-gone"])
    assert {name: info.status for name, info in found.items()} == dict.fromkeys(names, "RUNNING")
    assert (api.asked == ["/api/jobs/"]) == (jobs > FEW)


def test_the_list_leaves_out_drivers_that_nobody_submitted_and_carries_metadata(api: Any) -> None:
    submit(api, "boig-x")
    found = call(api, "jobs")
    assert {name: info.metadata for name, info in found.items()} == {"boig-x": {"stage": "ingest"}}


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
    found = RayCluster.of_connection(
        connection(host="ray", port=443, schema="https", password="the-token", extra='{"ca_bundle": "/ca.pem"}')
    )
    assert (found.address, found.conn_id, found.verify, found.ca_bundle) == ("https://ray:443", "ray_default", True, "/ca.pem")
    assert "the-token" not in str(found.serialize())
    assert RayCluster(**found.serialize()) == found


def test_certificates_are_checked_unless_the_connection_says_no(tmp_path: Any) -> None:
    context = RayCluster("https://ray").tls()
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert RayCluster.of_connection(connection(host="https://ray", extra='{"verify": false}')).tls() is False
    with pytest.raises(InputError, match=r"missing\.pem"):
        RayCluster("https://ray", ca_bundle=str(tmp_path / "missing.pem")).tls()


def test_an_address_with_credentials_is_refused_since_links_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_ADDRESS", "https://me:hush@ray:8265")
    with pytest.raises(InputError, match="carries credentials") as caught:
        RayCluster.find()
    assert "hush" not in str(caught.value)
