"""What is refused ends in one line: a wrong param in the first task, a wrong input in its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dags.running import create_event, events, load, states
from tests.dags.test_dag_runs import home

__all__ = ["home"]  # a fixture

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.mark.parametrize(
    ("conf", "reason"),
    [
        ({"posts": "/nowhere/posts.jsonl"}, "no posts were found"),
        ({"posts": "/etc/passwd"}, "policy.yaml:1 (posts) names"),
        ({"recipe": "tinny"}, "recipe 'tinny'"),
        ({"overrides": ["ddpo.epochz=5"]}, "did you mean epochs?"),
        ({}, "input 'posts'"),
        ({"previous": "/nowhere"}, "/nowhere/manifest.json"),
    ],
)
def test_a_wrong_param_fails_in_plan_with_one_line(
    home: Path, ray_stub: Any, caplog: Any, capfd: Any, conf: Any, reason: str
) -> None:
    posts = {"posts": str(home / "posts")} if conf and "posts" not in conf else {}
    jobs = len(ray_stub.entrypoints)
    run = load("boig_ingest").test(run_conf={**posts, **conf})
    assert states(run)["plan"] == "failed"
    assert states(run)["ingest"] == "upstream_failed"
    assert len(ray_stub.entrypoints) == jobs
    captured = capfd.readouterr()
    assert reason in captured.out + captured.err + caplog.text


def test_a_refused_input_fails_its_stage_at_once_and_announces_nothing(
    home: Path, ray_stub: Any, caplog: Any, capfd: Any
) -> None:
    jobs, announced = len(ray_stub.entrypoints), len(events("boig/dataset"))
    ray_stub.refuse.add("perceive")
    try:
        run = load("boig_ingest").test(run_conf={"posts": str(home / "posts")})
    finally:
        ray_stub.refuse.clear()
    result = states(run)
    assert (result["ingest"], result["perceive"]) == ("success", "failed")
    assert len(ray_stub.entrypoints) == jobs + 2
    assert len(events("boig/dataset")) == announced
    captured = capfd.readouterr()
    assert (
        "perceive: InputError: posts: are refused; give better ones"
        in captured.out + captured.err + caplog.text
    )


def test_an_event_that_a_person_created_starts_nothing(home: Path, caplog: Any, capfd: Any) -> None:
    create_event("boig/boigsd", {"outputs": {"boigsd": str(home), "report": str(home)}})
    run = load("boig_promote").test()
    assert states(run)["plan"] == "failed"
    captured = capfd.readouterr()
    assert (
        "event of boig/boigsd: was created by a person through Airflow's REST API"
        in captured.out + captured.err + caplog.text
    )
