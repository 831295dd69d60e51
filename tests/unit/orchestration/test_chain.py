"""The chain behind a candidate: whatever is not what a run of this store has made is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import BoigError, CorruptError, InputError, WithdrawnError
from boig_core.orchestration.promotion.chain import recipe_digest, verify_chain
from boig_core.storage import manifest, store, withdrawn
from boig_core.storage.job import write_job
from tests.unit.orchestration.chains import INPUTS, change, job_of, make, whole_chain

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

LINKS = [
    "dataset", "boigllm", "no_kpi", "predictor", "judge", "description", "calibration", "high_kpi",
    "boigsd", "generation", "report",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def verify(outputs: dict[str, str], root: str) -> Any:
    return verify_chain(outputs["boigsd"], outputs["report"], root)


def attempt_of(uri: str) -> str:
    return manifest.read_manifest(uri).commit.rsplit("/", 1)[0]


def test_a_chain_says_what_was_trained_measured_and_by_whom(root: str) -> None:
    by = {"boig_ingest": ["ann"], "boig_llm": [], "boig_sd": None}
    outputs = whole_chain(root, by, "seed=5")
    chain = verify(outputs, root)
    assert chain.candidate.uri == outputs["boigsd"]
    assert chain.candidate.digest == manifest.read_manifest(outputs["boigsd"]).digest()
    assert chain.candidate.job.recipe.seed == 5
    assert (chain.compared, chain.monitors) == (None, {})
    assert chain.triggered_by == {"ann": "boig_ingest/r"}
    assert chain.unknown == ("boig_sd/r",)


def test_who_triggered_an_attempt_that_a_later_one_may_have_gone_on_from_counts(root: str) -> None:
    outputs = whole_chain(root)
    inputs = {name: outputs[name] for name in ("dataset", "boigllm", "calibration", "predictor")}
    write_job(job_of(root, "ddpo", inputs, by=["eve"], attempt=1, run="again"))
    again = outputs | make(job_of(root, "ddpo", inputs, by=["ann"], attempt=3, run="again"))
    needed = (*inputs, "judge", "high_kpi", "boigsd")
    again |= make(job_of(root, "evaluate_sd", {n: again[n] for n in needed}, run="again"))
    evidence = ("dataset", "description", "calibration", "generation")
    again |= make(job_of(root, "report", {n: again[n] for n in evidence}, run="again"))
    assert verify(again, root).triggered_by == {"ann": "boig_sd/again", "eve": "boig_sd/again"}
    assert verify(again, root).unknown == ()
    for odd in (b"{}", b"[]", b"{", b'{"triggered_by": null}', b'{"triggered_by": 3}'):
        store.write_bytes(f"{root}/runs/boig_sd/again/ddpo/attempt-1/job.json", odd)
        assert verify(again, root).unknown == ("boig_sd/again",)


def test_a_forged_folder_below_another_root_is_no_candidate(root: str, tmp_path: Path) -> None:
    """Complete to the last digest, but nobody knows who wrote it."""
    forged = whole_chain(str(tmp_path / "drop"))
    with pytest.raises(InputError, match="lies outside of the store"):
        verify(forged, root)
    genuine = whole_chain(root)
    for name in ("boigsd", "report"):
        with pytest.raises(InputError, match="lies outside of the store"):
            verify(genuine | {name: forged[name]}, root)


@pytest.mark.parametrize("name", ["dataset", "boigllm", "calibration"])
def test_evidence_of_another_store_is_refused(root: str, tmp_path: Path, name: str) -> None:
    outputs = whole_chain(root)
    elsewhere = whole_chain(str(tmp_path / "other"))[name]
    inputs = {n: outputs[n] for n in ("dataset", "boigllm", "calibration", "predictor")}
    outputs |= make(job_of(root, "ddpo", inputs | {name: elsewhere}, run="mixed"))
    outputs |= make(
        job_of(
            root,
            "evaluate_sd",
            {**inputs, **{n: outputs[n] for n in ("judge", "high_kpi", "boigsd")}, name: elsewhere},
            run="mixed",
        )
    )
    evidence = {n: outputs[n] for n in ("dataset", "description", "calibration", "generation")}
    outputs |= make(job_of(root, "report", evidence, run="mixed"))
    with pytest.raises(InputError, match=r"other/.*: lies outside of the store"):
        verify(outputs, root)


def test_a_link_that_leads_out_of_the_store_leads_nowhere(root: str, tmp_path: Path) -> None:
    forged = whole_chain(str(tmp_path / "drop"))
    Path(root).mkdir()
    (Path(root) / "models").symlink_to(tmp_path / "drop" / "models")
    candidate = forged["boigsd"].replace(str(tmp_path / "drop"), root)
    with pytest.raises(InputError, match="lies outside of the store"):
        verify(forged | {"boigsd": candidate}, root)


@pytest.mark.parametrize("name", LINKS)
def test_a_manifest_that_was_changed_breaks_the_chain(root: str, name: str) -> None:
    outputs = whole_chain(root)
    uri = f"{outputs[name]}/manifest.json"
    lineage = json.loads(store.read_bytes(uri))["lineage"]
    first = next(iter(lineage["inputs"]))
    changes: list[dict[str, Any]] = [
        {"meta": {"samples": 4}},
        {"lineage": {**lineage, "recipe": "0" * 64}},
        {"lineage": {**lineage, "inputs": {**lineage["inputs"], first: "0" * 64}}},
        {"lineage": {**lineage, "inputs": {}}},
        {"kind": "other"},
        {"commit": f"{root}/runs/d/r/t/attempt-1/commit.json"},
    ]
    for fields in changes:
        before = store.read_bytes(uri)
        change(uri, **fields)
        # Nobody reads a report, so a change of what it says of itself is found by the decision.
        if not (name == "report" and "meta" in fields):
            with pytest.raises(BoigError):
                verify(outputs, root)
        store.write_bytes(uri, before)
    assert verify(outputs, root)


@pytest.mark.parametrize("name", LINKS)
def test_a_run_that_left_no_commit_or_another_job_breaks_the_chain(root: str, name: str) -> None:
    outputs = whole_chain(root)
    job = f"{attempt_of(outputs[name])}/job.json"
    before = store.read_bytes(job)
    tree = json.loads(before)
    looser = {**tree["recipe"]["promotion"], "min_diversity": 0.01}
    changes: list[dict[str, Any]] = [
        {"recipe": {**tree["recipe"], "promotion": looser}},
        {"stage": "compare"},
        {"inputs": {}},
        {"inputs": {**tree["inputs"], "extra": outputs["dataset"]}},
        {"attempt": 7},
    ]
    for fields in changes:
        change(job, **fields)
        with pytest.raises(BoigError):
            verify(outputs, root)
        store.write_bytes(job, before)
    store.delete_file(f"{attempt_of(outputs[name])}/commit.json")
    with pytest.raises(CorruptError):
        verify(outputs, root)


def test_a_baseline_is_no_candidate(root: str) -> None:
    outputs = whole_chain(root)
    with pytest.raises(InputError, match="was made by the stage finetune_sd, not by ddpo"):
        verify(outputs | {"boigsd": outputs["high_kpi"]}, root)


def test_a_report_of_another_model_is_refused(root: str) -> None:
    first, second = whole_chain(root), whole_chain(root, None, "seed=5", run="s")
    with pytest.raises(InputError, match="give a model and its own report"):
        verify(first | {"report": second["report"]}, root)


def test_numbers_of_an_easier_setting_do_not_stand_for_the_candidate(root: str) -> None:
    """As an XCom that was written anew between two stages would bring about."""
    outputs, other = whole_chain(root), whole_chain(root, None, "seed=5", run="s")
    needed = ("dataset", "boigllm", "calibration", "predictor", "judge", "high_kpi", "boigsd")
    inputs = {name: outputs[name] for name in needed}
    evidence = {n: outputs[n] for n in ("dataset", "description", "calibration", "generation")}

    easier = job_of(
        root, "evaluate_sd", inputs, recipe=_recipe("evaluation.bootstrap=100"), run="e"
    )
    generation = make(easier)["generation"]
    report = make(job_of(root, "report", evidence | {"generation": generation}, run="e"))["report"]
    with pytest.raises(InputError, match="was made by another recipe"):
        verify(outputs | {"report": report}, root)

    report = make(
        job_of(root, "report", evidence | {"calibration": other["calibration"]}, run="f")
    )["report"]
    with pytest.raises(InputError, match="was made with another calibration"):
        verify(outputs | {"report": report}, root)


def test_a_dataset_that_grows_by_the_day_is_followed_to_its_first_posts(root: str) -> None:
    outputs = whole_chain(root)
    posts = {"posts": outputs["posts"]}
    dataset = outputs["dataset"]
    for day in range(20):
        job = job_of(root, "ingest", posts | {"previous": dataset}, by=[f"p{day}"], run=f"d{day}")
        dataset = make(job)["dataset"]
    names = ("boigllm", "calibration", "predictor")
    inputs = {"dataset": dataset, **{name: outputs[name] for name in names}}
    outputs |= make(job_of(root, "ddpo", inputs, run="late"))
    inputs |= {name: outputs[name] for name in ("judge", "high_kpi", "boigsd")}
    outputs |= make(job_of(root, "evaluate_sd", inputs, run="late"))
    evidence = {n: outputs[n] for n in ("description", "calibration", "generation")}
    outputs |= make(job_of(root, "report", {**evidence, "dataset": dataset}, run="late"))
    assert len(verify(outputs, root).triggered_by) == 20
    shutil.rmtree(manifest.read_manifest(dataset).commit.rsplit("/", 1)[0].replace("/d19/", "/d3/"))
    with pytest.raises(CorruptError, match="has not committed"):
        verify(outputs, root)


def test_the_digest_of_a_written_recipe_is_that_of_a_loaded_one() -> None:
    recipe = _recipe("seed=3")
    assert recipe_digest(json.loads(recipe.model_dump_json(indent=1))) == recipe.digest()


def _recipe(*overrides: str) -> Any:
    from boig_core.config import load_recipe

    return load_recipe("tiny", overrides)


def test_a_model_that_has_seen_a_forgotten_post_is_promoted_no_more(root: str) -> None:
    outputs = whole_chain(root)
    assert verify(outputs, root)
    place = outputs["dataset"].removeprefix(f"{root}/")
    # A version that was built on it, and what was trained on that one.
    inputs = {"previous": outputs["dataset"], "posts": outputs["posts"]}
    later = outputs | make(job_of(root, "ingest", inputs, run="later"))
    for stage in ("perceive", "finetune_llm", "evaluate_llm", "calibrate", "finetune_sd"):
        needed = {name: later[name] for name in INPUTS[stage]}
        later |= make(job_of(root, stage, needed, run="later"))
    for stage in ("ddpo", "evaluate_sd", "report"):
        needed = {name: later[name] for name in INPUTS[stage]}
        later |= make(job_of(root, stage, needed, run="later"))
    note = withdrawn.Withdrawal(
        place=place,
        at="2026-05-04T03:00:00Z",
        erasure="forget-1",
        successor=later["dataset"].removeprefix(f"{root}/"),
    )
    withdrawn.write(root, note)
    with pytest.raises(
        WithdrawnError, match=r"was withdrawn on 2026-05-04 because a post was forgotten; use "
    ):
        verify(outputs, root)
    assert verify(later, root).candidate.uri == later["boigsd"], "its own version held no such post"
