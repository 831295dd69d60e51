"""Lines of the other commands at 80 columns: bench, status, doctor, dataset diff, clean; and the
rules of all tables."""

from __future__ import annotations

import pytest

from boig_core.cli import bench, doctor
from boig_core.config import load_recipe
from boig_core.data.inspect import diff_lines
from boig_core.diffusion.bench import Speed
from boig_core.observability.progress import fitted, goes_on
from boig_core.observability.tables import print_table
from boig_core.storage import commit, retention, runs
from boig_core.storage.store import File
from ray_jobs.ddpo import epoch_line
from tests.unit.narrow import check_fits, rendered


def test_a_table_goes_on_below_with_its_names_and_drops_what_is_empty() -> None:
    columns = ("name", *(f"measure {n}" for n in range(12)))
    rows = {
        "full": [f"{n}.125" for n in range(12)],
        "half": [f"{n}.5" if n < 6 else None for n in range(11)] + [None],
        "void": [None] * 12,
    }
    rows["full"][3] = rows["half"][3] = None
    text = rendered(
        lambda console: print_table(
            console, "Title", columns, rows, {"void": "the recipe names none"}
        )
    )
    for n in range(12):
        assert (f" {n}.125" in text) == (n != 3)
        assert (f" {n}.5" in text) == (n < 6 and n != 3)
        assert f"measure {n}" in text  # a heading that does not fit would be broken
    assert text.count("name") > 1
    assert "–" in text
    assert text.strip().splitlines()[-1] == "Not measured: void (the recipe names none); measure 3"


def test_a_name_that_is_longer_than_its_room_goes_on_in_the_next_line() -> None:
    name = "x" * 45 + "y" * 45
    text = rendered(
        lambda console: print_table(console, "Title", ("name", "value"), {name: ["1.000"]})
    )
    assert "".join(line[:73].split(" ")[0] for line in text.splitlines()[3:]) == name


@pytest.mark.parametrize("sampling", [0.75, None])
def test_the_bench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sampling: float | None
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    idle = {"idle_rollout_actors": 0.125, "idle_reward_actors": 0.5, "idle_learner": 0.25}
    speed = Speed(
        24, 1.5, sampling, 0.5, idle if sampling is None else {}, 2.0, 0.0125, 0.05, 0.01, 1.0, 4.0
    )
    bench.show(load_recipe("tiny", []), speed)
    text = capsys.readouterr().out
    check_fits(text)
    rows = {
        line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:]
        for line in text.splitlines()
        if len(line.split()) > 3
    }
    assert rows["epoch"] == ["2.000", "12.0", "100%"]
    assert rows["rollouts and rewards" if sampling is None else "sampling"][0] == (
        "1.500" if sampling is None else "0.750"
    )
    flat = " ".join(text.split())
    assert ("idle: rollout actors 12%, reward actors 50%, learner 25%" in flat) == (
        sampling is None
    )
    assert "take 1.000 s at these rates on one device: 50% of the epoch" in flat
    assert "take 4.000 s an epoch: 2.00 times as long" in flat


def test_the_doctor() -> None:
    detail = ", ".join(f"package-with-a-name-{n} 1.{n}.0" for n in range(6))
    lines = doctor.lines(doctor.CheckResult("packages", "failed", detail))
    check_fits("\n".join(lines))
    assert lines[0].startswith("FAIL packages  package-with-a-name-0 1.0.0,")
    assert all(line.startswith(" " * 15) for line in lines[1:])
    assert " ".join(" ".join(lines).split()).removeprefix("FAIL packages ") == detail
    path = "/very/long" * 12
    # A path is not cut.
    assert path in "\n".join(doctor.lines(doctor.CheckResult("store", "ok", f"{path}: writable")))


def test_the_status_of_a_run_folds_its_last_row() -> None:
    last = {
        "step": 3,
        "time": 1.0,
        **{f"measure_{n}": 0.5 + n for n in range(14)},
        "clip_fraction": None,
    }
    message = "reward contrast: AUC 0.52 [0.44, 0.60] on 160 test images must be above 0.5"
    failure = commit.Failure(type="InputError", message=message, remedy="ingest more", user=True)
    state = runs.AttemptState(
        "ddpo", 2, "open", 12.5, 0.0, None, failure, {"boigsd": "s3://b/m"}, last, "s3://b/a"
    )
    lines = list(runs.status_lines([state]))
    check_fits("\n".join(lines))
    flat = " ".join("\n".join(lines).split())
    assert all(f"measure_{n} {0.5 + n:.4g}" in flat for n in range(14))
    assert "on 160 test images must be above 0.5; ingest more" in flat
    assert lines[-1].strip() == "not measured in it: clip_fraction"


def test_the_sum_of_a_run_folds() -> None:
    stages = {
        name: {"gpu_hours": 1.0, "idle": 0.25}
        for name in ("finetune_llm", "evaluate_llm", "finetune_sd", "ddpo")
    }
    line = runs.summary_line({"stages": stages, "seconds": 2760.0, "gpu_hours": 3.0, "cost": 7.5})
    lines = runs.folded(line)
    check_fits("\n".join(lines))
    assert len(lines) > 1
    assert " ".join(part.strip() for part in lines) == line
    assert runs.folded("a · b") == ["a · b"]


def test_a_difference_of_datasets_names_samples_and_says_how_many_more() -> None:
    ids = [f"account-with-a-long-name/2021-07-0{n}/post-{n}" for n in range(5)]
    lines = list(diff_lines({"added": ids, "removed": [], "changed": {"kpi": ids[:2]}}))
    check_fits("\n".join(lines))
    assert lines == [
        "added: 5",
        *(f"    {sample}" for sample in ids[:3]),
        "    and 2 more (all of them: --json)",
        "removed: 0",
        "changed kpi: 2",
        *(f"    {sample}" for sample in ids[:2]),
    ]


def test_what_is_cleaned_up_stands_a_folder_below_its_numbers() -> None:
    files = (File("a", 2**20, 0.0), File("b", 2 * 2**20, 0.0))
    uri = "runs/boig_sd/manual-7/ddpo/attempt-1/checkpoints"
    garbage = (retention.Garbage("checkpoints", uri, files),)
    lines = list(retention.summary(retention.Survey("", garbage, files[:1], (), (), 0.0, 0.0)))
    check_fits("\n".join(lines))
    assert lines[0].split() == ["checkpoints", "2", "files", "3.0", "MiB"]
    assert lines[1].strip() == uri
    assert lines[2].split() == ["2", "files", "3.0", "MiB"]
    assert lines[3].startswith("foreign             1 files          1.0 MiB: not boig's")
    assert lines[4].strip() == "a"


def test_an_epoch_of_the_alignment_tells_reward_speed_and_time_left_on_a_narrow_line() -> None:
    values = {
        "reward": 1.25,
        "reward_std": 0.5,
        "seconds_rollouts": 8.0,
        "seconds_update": 2.5,
        "clip_fraction": 0.03,
    }
    line = epoch_line(1, 6, values, 10.5)
    assert (
        line
        == "epoch 2 of 6 · reward 1.250 ± 0.500 · 10.5 s/epoch · rollouts 8.0 s · update 2.5 s · clipped 0.03 · about 0:42 left"
    )
    assert fitted(line, 74) == "epoch 2/6 · reward 1.250 ± 0.500 · 10.5 s/epoch · 0:42 left"
    assert not goes_on(epoch_line(5, 6, values, 10.5))
