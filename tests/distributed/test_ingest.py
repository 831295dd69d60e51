"""Stages ingest and perceive over a real local Ray, from an export as the ad world writes it to a
described dataset."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.cluster.stage import run_stage
from boig_core.config import load_recipe
from boig_core.data import dataset, tables
from boig_core.data.card import CARD
from boig_core.storage import commit
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.manifest import PAGE, read_file, read_manifest, sha256_file
from boig_core.vocabulary import PALETTE, Sample
from ray_jobs import ingest, perceive

pytestmark = pytest.mark.usefixtures("ray_cluster")

POSTS = 300


def run(
    stage: Stage,
    store: Path,
    inputs: dict[str, str],
    run_id: str = "r1",
    overrides: tuple[str, ...] = (),
) -> tuple[int, str]:
    task = f"{store}/runs/boig_ingest/{run_id}/{stage}"
    recipe = load_recipe("tiny", ["perception.name_threshold=0.0", *overrides])
    job = Job(
        stage=stage,
        recipe=recipe,
        inputs=inputs,
        store=str(store),
        root="test",
        task=task,
        attempt=1,
    )
    work = {Stage.INGEST: ingest.work, Stage.PERCEIVE: perceive.work}[stage]
    return run_stage(work, [write_job(job)]), job.attempt_uri


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "export"
    write_world(POSTS, 3, Law.load("sunlit"), out)
    return out


def test_an_export_becomes_a_described_dataset(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, attempt = run(Stage.INGEST, tmp_path, {"posts": str(world)})
    assert code == 0
    check_told(capsys.readouterr().out, attempt)
    done = commit.read_commit(attempt)
    assert done is not None
    uri = done["outputs"]["dataset"]
    samples = check_ingested(uri, world, tmp_path)

    code, attempt = run(Stage.PERCEIVE, tmp_path, {"dataset": uri})
    assert code == 0
    done = commit.read_commit(attempt)
    assert done is not None
    described = check_described(done["outputs"]["dataset"], world)
    assert [sample.id for sample in described] == [sample.id for sample in samples]
    cards = [read_file(at, PAGE) for at in (uri, done["outputs"]["dataset"])]
    assert cards[0] == cards[1]
    assert done["metrics"]["warnings"] == []
    assert done["metrics"]["clip_auc"] > 0.85
    images = read_manifest(uri, kind="dataset").meta["images"]
    assert done["metrics"]["described"] == images == done["metrics"]["images"]
    check_nothing_is_looked_at_twice(uri, world, tmp_path, described)
    # The second version shares the image shards of the first.
    first, second = (
        set(dataset.shards(read_manifest(at), tables.IMAGES))
        for at in (uri, done["outputs"]["dataset"])
    )
    assert first == second


def check_told(printed: str, attempt: str) -> None:
    """The stage ends with its numbers and warnings, which are in its result, too."""
    done = commit.read_commit(attempt)
    assert done is not None
    metrics = done["metrics"]
    assert f"dataset adworld: {metrics['accepted']} posts kept, of {POSTS} rows read" in printed
    flat = " ".join(printed.split())
    assert all(f"warning: {warning}" in flat for warning in metrics["warnings"])
    assert read_manifest(done["outputs"]["dataset"]).meta["warnings"] == metrics["warnings"]


def check_ingested(uri: str, world: Path, store: Path) -> list[Sample]:
    """The version holds what the world's truth says; its samples."""
    meta = read_manifest(uri, kind="dataset").meta
    truth = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]
    broken = [row for row in truth if row["broken"]]
    assert (meta["posts"], meta["rejected"], meta["images"]) == (
        POSTS,
        len(broken),
        POSTS - len(broken),
    )
    assert not list((store / "datasets" / "adworld" / "staging").iterdir())
    assert (
        sum(sum(splits.values()) for splits in meta["buckets"].values()) + meta["without_bucket"]
        == meta["samples"]
    )

    samples = dataset.read_samples(uri)
    likes = {row["id"]: row["likes"] for row in truth}
    assert {sample.id: sample.kpi for sample in samples} == {
        row["id"]: row["likes"] for row in truth if not row["broken"]
    }
    assert all(
        sample.description is None and sample.kpi == likes[sample.post] for sample in samples
    )
    files = {row["id"]: world / row["image"] for row in truth}
    assert all(sample.image == sha256_file(files[sample.id]) for sample in samples)
    return samples


def check_described(uri: str, world: Path) -> list[Sample]:
    """Descriptions show what was drawn; the samples with them."""
    described = dataset.read_samples(uri)
    truth = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]
    scenes = {row["id"]: row for row in truth}
    backgrounds = counts = 0
    for sample in described:
        assert sample.description is not None
        scene = scenes[sample.id]["scene"]
        assert round(100 * sum(sample.description.colors.values())) == 100
        assert sample.description.colors.keys() <= PALETTE.keys()
        assert all(0 <= edge <= 128 for box in sample.description.objects.values() for edge in box)
        counts += bool(sample.description.objects)
        backgrounds += scene["background"].capitalize() in sample.description.colors
    assert counts == len(described)
    assert backgrounds > 0.97 * len(described)
    return described


def check_nothing_is_looked_at_twice(
    uri: str, world: Path, tmp_path: Path, described: list[Sample]
) -> None:
    """Not for another version, and not for another dataset of the store."""
    again = run(Stage.PERCEIVE, tmp_path, {"dataset": uri}, run_id="r2")
    other = run(
        Stage.INGEST,
        tmp_path,
        {"posts": str(world)},
        run_id="r3",
        overrides=("data.name=other", "data.shard_mb=0.5"),
    )
    created = commit.read_commit(other[1])
    assert created is not None
    elsewhere = run(
        Stage.PERCEIVE,
        tmp_path,
        {"dataset": created["outputs"]["dataset"]},
        run_id="r3",
        overrides=("data.name=other",),
    )
    for code, attempt in (again, elsewhere):
        repeated = commit.read_commit(attempt)
        assert code == 0
        assert repeated is not None
        assert repeated["metrics"]["described"] == 0
        assert [
            sample.description for sample in dataset.read_samples(repeated["outputs"]["dataset"])
        ] == [s.description for s in described]
    assert not list((tmp_path / "perception").glob("*/part-*"))


def test_the_same_export_makes_the_same_dataset(world: Path, tmp_path: Path) -> None:
    digests = []
    for number, name in enumerate(("a", "b")):
        code, attempt = run(
            Stage.INGEST,
            tmp_path / name,
            {"posts": str(world / "posts.jsonl")},
            run_id=f"r{number}",
        )
        assert code == 0
        done = commit.read_commit(attempt)
        assert done is not None
        digests.append(
            [
                (entry.path, entry.sha256)
                for entry in read_manifest(done["outputs"]["dataset"]).files
            ]
        )
    assert digests[0] == digests[1]


@pytest.mark.parametrize("content", [None, b"", b'{"id": 1}\nnot json\n'])
def test_nothing_to_read_is_a_user_error_and_leaves_no_dataset(
    content: bytes | None, tmp_path: Path
) -> None:
    source = tmp_path / "export" / "posts.jsonl"
    source.parent.mkdir()
    if content is not None:
        source.write_bytes(content)
    code, attempt = run(Stage.INGEST, tmp_path / "store", {"posts": str(source)})
    failure = commit.read_failure(attempt)
    assert code == 2
    assert failure is not None
    assert (failure.user, "\n" in failure.message) == (True, False)
    assert str(source) in failure.message
    assert not (tmp_path / "store" / "datasets").exists()


@pytest.mark.parametrize("inputs", [{}, {"previous": "/d", "retry": "/d", "posts": "/p"}])
def test_inputs_that_say_nothing_or_too_much_are_refused(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    code, attempt = run(Stage.INGEST, tmp_path, inputs)
    failure = commit.read_failure(attempt)
    assert code == 2
    assert failure is not None
    assert "must be posts, previous or retry" in failure.message


def test_a_second_day_builds_on_the_first(world: Path, tmp_path: Path) -> None:
    rows = (world / "posts.jsonl").read_bytes().splitlines(keepends=True)
    uris: list[str] = []
    for day, part in enumerate((rows[:200], rows[200:])):
        source = world / f"day-{day}.jsonl"
        source.write_bytes(b"".join(part))
        code, attempt = run(
            Stage.INGEST,
            tmp_path,
            {"posts": str(source), **({"previous": uris[0]} if uris else {})},
            run_id=f"d{day}",
        )
        assert code == 0
        done = commit.read_commit(attempt)
        assert done is not None
        uris.append(done["outputs"]["dataset"])
    code, attempt = run(Stage.INGEST, tmp_path / "whole", {"posts": str(world)})
    done = commit.read_commit(attempt)
    assert (code, done is not None) == (0, True)
    assert done is not None
    assert dataset.read_samples(uris[1]) == dataset.read_samples(done["outputs"]["dataset"])


def test_what_is_doubtful_about_things_before_white_is_told_everywhere(tmp_path: Path) -> None:
    export, rng = tmp_path / "export", np.random.default_rng(0)
    export.mkdir()
    rows = []
    for number in range(30):
        image = np.full((64, 64, 3), 252, np.uint8)
        grain = rng.normal(rng.integers(60, 200, 3), 30, (30, 30, 3))
        image[17:47, 12:42] = grain.clip(0, 255)
        Image.fromarray(image).save(export / f"{number}.png")
        text = f"Food number {number} of our kitchen, photographed on a table before a white wall"
        moment = f"2024-05-{number % 28 + 1:02}T10:00:00Z"
        rows.append(
            {"id": f"f{number}", "account": "chef", "timestamp": moment, "text": text,
             "image": f"{number}.png", "likes": number}
        )  # fmt: skip
    (export / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, attempt = run(Stage.INGEST, tmp_path / "store", {"posts": str(export)})
    uri = (commit.read_commit(attempt) or {})["outputs"]["dataset"]
    told = ("perception.clip_anyway=true", "perception.kinds=[fish, fruit, meat, egg]")
    code, attempt = run(Stage.PERCEIVE, tmp_path / "store", {"dataset": uri}, overrides=told)
    done = commit.read_commit(attempt)
    assert code == 0
    assert done is not None
    warnings = done["metrics"]["warnings"]
    assert any("leads the palette of 30 of 30 images" in line for line in warnings)
    assert any("package:clip hardly tells" in line for line in warnings)
    seen = done["outputs"]["dataset"]
    assert json.loads(read_file(seen, CARD))["seen"]["warnings"] == warnings
    assert read_manifest(seen).meta["seen"]["warnings"] == warnings
    page = read_file(seen, PAGE).decode()
    told_by_log = "".join(path.read_text("utf-8") for path in Path(attempt, "log").iterdir())
    for line in warnings:
        assert line in told_by_log
        assert f"<li><bdi>{escape(line)}</bdi></li>" in page
    assert "seen" not in json.loads(read_file(uri, CARD))
