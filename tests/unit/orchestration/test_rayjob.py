"""The resource of a job: what is filled in, which pods it gets, what KubeRay and the CRD would
refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from boig_core.config import Recipe, load_recipe
from boig_core.errors import InputError
from boig_core.orchestration.jobs.asks import Ask, asks_of
from boig_core.orchestration.jobs.rayjob import NAME, QUEUE, name_of, read_base, render
from boig_core.orchestration.stage.attempts import submission_id, task_uri
from boig_core.storage.job import Stage
from boig_core.storage.usage import held_gpus
from tests.unit.orchestration.kuberay.api import BASE, SCHEMA, refused


def rendered(base: dict[str, Any] | None = None, *asks: Ask) -> dict[str, Any]:
    body = render(
        base or read_base(str(BASE)),
        "boig-ddpo-a1-0123456789ab",
        "python -m ray_jobs.ddpo x",
        {"dag": "d"},
        asks,
    )
    assert list(SCHEMA.iter_errors(body)) == []
    assert refused(body) is None
    return body


def pods(body: dict[str, Any]) -> dict[str, int]:
    """Pods by worker group."""
    groups = body["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert all(
        group["replicas"] == group["minReplicas"] == group["maxReplicas"] for group in groups
    )
    return {group["groupName"]: group["replicas"] for group in groups}


def test_the_shipped_file_renders_to_what_the_crd_and_kuberay_accept() -> None:
    body = rendered()
    spec = body["spec"]
    assert (spec["jobId"], spec["entrypoint"], spec["metadata"]) == (
        "boig-ddpo-a1-0123456789ab",
        "python -m ray_jobs.ddpo x",
        {"dag": "d"},
    )
    assert (spec["submissionMode"], spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (
        "HTTPMode",
        0,
        True,
    )
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "suspend" not in spec


def test_each_pod_of_the_shipped_file_fits_a_restricted_namespace() -> None:
    """What Pod Security's level `restricted` asks for, and room to write for a node alone."""
    cluster = rendered()["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000, "that of the image"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        # What a pod may write has a limit; the policy is the operator's, and is only read.
        assert all("sizeLimit" in v["emptyDir"] for v in volumes.values() if "configMap" not in v)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert set(mounts) == {"/tmp", "/home/ray", "/etc/boig"}
            assert mounts["/etc/boig"]["readOnly"] is True
            assert {mount["name"] for mount in mounts.values()} <= set(volumes)


def test_a_head_that_ends_is_not_brought_back_since_kuberay_would_submit_the_job_again() -> None:
    body = rendered()
    assert body["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] == "true"
    assert (
        body["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"]
        == "Never"
    )


def test_the_file_itself_is_left_as_it_is() -> None:
    base = read_base(str(BASE))
    before = yaml.safe_dump(base)
    rendered(base, Ask(3, 1.0))
    assert yaml.safe_dump(base) == before


def test_a_job_with_a_queue_waits_suspended() -> None:
    base = read_base(str(BASE))
    base["metadata"]["labels"] = {QUEUE: "gpus"}
    body = rendered(base)
    assert body["spec"]["suspend"] is True
    assert body["metadata"]["labels"] == {QUEUE: "gpus", "app.kubernetes.io/managed-by": "boig"}


def test_a_deletion_strategy_of_the_team_replaces_the_shutdown() -> None:
    base = read_base(str(BASE))
    spec = base["spec"]
    del spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]
    ends = [{"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}]
    spec["deletionStrategy"] = {
        "deletionRules": [{"policy": "DeleteCluster", "condition": end} for end in ends]
    }
    assert rendered(base)["spec"]["shutdownAfterJobFinishes"] is False
    del spec["deletionStrategy"]
    assert rendered(base)["spec"]["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize(
    ("asks", "expected"),
    [
        ([], {"cpu": 2}),
        ([Ask(0, 0.5)], {"cpu": 2}),
        ([Ask(5, 2.0)], {"cpu": 3}),
        ([Ask(40, 0.1)], {"cpu": 1}),
        ([Ask(5, 3.0)], {"cpu": 5}),
        ([Ask(1, 8.0)], {"gpu": 1}),
        ([Ask(0, 1.0, 1.0)], {"gpu": 1}),
        ([Ask(4, 4.0, 1.0)], {"gpu": 4}),
        ([Ask(1, 2.0, 0.6), Ask(1, 2.0, 0.2), Ask(1, 2.0, 0.2)], {"gpu": 1}),
        ([Ask(3, 1.0, 0.6)], {"gpu": 3}),
        ([Ask(2, 1.0, 1.0), Ask(6, 1.0)], {"cpu": 2, "gpu": 2}),
    ],
)
def test_the_smallest_pods_that_hold_each_process_are_taken_and_as_many_as_all_need(
    asks: list[Ask], expected: dict[str, int]
) -> None:
    assert pods(rendered(None, *asks)) == expected


def test_a_share_is_one_of_a_single_gpu() -> None:
    base = read_base(str(BASE))
    base["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]["containers"][0][
        "resources"
    ]["limits"]["nvidia.com/gpu"] = "2"
    assert pods(rendered(base, Ask(3, 1.0, 0.6))) == {"gpu": 2}
    assert pods(rendered(base, Ask(3, 1.0, 2.0))) == {"gpu": 3}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"pool": "rollouts"}, "rollouts"),
        ({"pool": "!learner"}, "gpu"),
        ({"pool": "in(rollouts, learner)"}, "rollouts"),
        ({"pool": "!in(learner,x)", "ray.io/accelerator-type": "H100"}, "gpu"),
    ],
)
def test_a_process_goes_to_pods_with_its_labels(labels: dict[str, str], expected: str) -> None:
    base = read_base(str(BASE))
    groups = base["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    groups.append({**groups[1], "groupName": "rollouts", "labels": {"pool": "rollouts"}})
    assert pods(rendered(base, Ask(2, 1.0, 1.0, labels))) == {expected: 2}


def test_a_process_that_fits_no_pod_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"2 GPUs.*fits no worker pod of cpu, gpu"):
        rendered(None, Ask(1, 1.0, 2.0))
    with pytest.raises(InputError, match=r"'pool': 'rollouts'.*fits no worker pod"):
        rendered(None, Ask(1, 1.0, 1.0, {"pool": "rollouts"}))


def test_limits_may_be_written_in_thousandths() -> None:
    base = read_base(str(BASE))
    base["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0][
        "resources"
    ]["limits"]["cpu"] = "1500m"
    assert pods(rendered(base, Ask(2, 1.0))) == {"cpu": 2}


def test_every_stage_of_the_tiny_recipe_fits_the_shipped_file_without_a_gpu() -> None:
    recipe = load_recipe("tiny")
    assert {name for stage in Stage for name in pods(rendered(None, *asks_of(stage, recipe)))} == {
        "cpu"
    }


def test_an_alignment_asks_for_learners_rollouts_and_scorers_at_once() -> None:
    whole = load_recipe("tiny").model_dump()
    whole["resources"] = {"cpus": 4, "gpus": 1}
    whole["reward"] |= {"actors": 3, "resources": {"cpus": 2, "gpus": 0}}
    whole["ddpo"] |= {
        "rollout_actors": 5,
        "workers": 1,
        "rollout_resources": {"cpus": 1, "gpus": 1, "labels": {"pool": "rollouts"}},
    }
    recipe = Recipe.model_validate(whole)
    assert asks_of(Stage.DDPO, recipe) == [
        Ask(1, 4.0, 1.0),
        Ask(5, 1.0, 1.0, {"pool": "rollouts"}),
        Ask(3, 2.0, 0.0),
    ]
    assert asks_of(Stage.REPORT, recipe) == [Ask(0, 4.0)]


@pytest.mark.parametrize(
    ("at_once", "judge", "processes"),
    [(1, "null", 3), (2, "null", 6), (8, "null", 6), (8, "predictor", 12)],
)
def test_models_that_train_side_by_side_ask_for_workers_of_their_own(
    at_once: int, judge: str, processes: int
) -> None:
    rated = ["llm.predictor=head", "data.judge=0.1"] if judge == "predictor" else []
    settings = [
        "llm.workers=3",
        f"llm.at_once={at_once}",
        f"evaluation.judge={judge}",
        "resources.gpus=1",
        *rated,
    ]
    recipe = load_recipe("tiny", settings)
    assert asks_of(Stage.FINETUNE_LLM, recipe) == [Ask(processes, 0.5, 1.0)]
    assert held_gpus(Stage.FINETUNE_LLM, recipe) == processes


def test_names_are_short_differ_and_keep_short_ids() -> None:
    assert name_of("boig-x") == "boig-x"
    tasks = [
        task_uri(
            "s3://b",
            "boig_llm",
            f"scheduled__2026-01-0{day}T00:00:00+00:00",
            "a_task_with_a_long_name",
        )
        for day in (1, 2)
    ]
    ids = [submission_id(task, number) for task in tasks for number in (1, 2, 12345)]
    names = [name_of(each) for each in ids]
    assert len(set(names)) == len(ids)
    for each, name in zip(ids, names, strict=True):
        assert len(name) <= NAME < len(each)
        assert name.endswith(each[-18:])
        assert refused({"metadata": {"name": name}, "spec": {"rayClusterSpec": {}}}) is None


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "just words",
        "kind: Job",
        "apiVersion: ray.io/v1\nkind: RayJob\nspec: {rayClusterSpec: {}}",
    ],
)
def test_a_file_that_is_no_rayjob_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    for path in (tmp_path / "x.yaml", tmp_path / "missing.yaml"):
        with pytest.raises(InputError, match="BOIG_KUBERAY"):
            read_base(str(path))
