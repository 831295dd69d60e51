"""`boig forget`: nothing of a subject is left in any file, all of the others is, and no ingestion
brings it back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.data import dataset, forgotten, tables
from boig_core.data.forgetting.erasure import forget, survey
from boig_core.data.forgotten import Subject
from boig_core.errors import (
    InputError,
    WithdrawnError,
)
from boig_core.orchestration.promotion import registry
from boig_core.storage import copying, manifest, store, withdrawn
from boig_core.storage.check import check_store
from boig_core.storage.inventory import Inventory
from boig_core.storage.retention import survey as survey_garbage

from .conftest import row
from .forgetting import (
    ACCOUNT,
    LEAVER,
    Grown,
    accounts_of,
    content,
    digest,
    grow,
    images_of,
    needles_of,
    posts,
    silent,
    traces,
)


@pytest.fixture(params=["local", "s3_bucket", "real_s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}"


@pytest.fixture
def local(tmp_path: Path) -> str:
    """The same on a disk alone."""
    return str(tmp_path / "store")


@pytest.mark.slow
def test_nothing_of_an_account_is_left_and_all_of_the_others_is(root: str, tmp_path: Path) -> None:
    grown = Grown(root, tmp_path)
    outputs = grow(grown)
    needles = needles_of(grown)
    assert len(traces(root, needles)) > 10
    done = forget(root, ACCOUNT, None, ("ann",), silent)
    assert traces(root, needles) == []
    # One of its posts is of the attempt that died.
    assert (done.posts, done.images) == (6, len(needles) - 3)
    held = {
        outputs[name].removeprefix(f"{root}/") for name in ("first", "seen", "second", "newest")
    }
    repeated = {outputs[name].removeprefix(f"{root}/") for name in ("evaluation", "report")}
    assert done.withdrawn.keys() == held | repeated
    [successor] = {done.withdrawn[place] for place in held}
    new = store.join(root, str(successor))
    assert accounts_of(new) == {"al", "bo"}
    # As if they had never posted.
    other = Grown(str(tmp_path / "other"), tmp_path / "o")
    rows = [item for item in posts(0, 9) + posts(9, 6) if item["account"] != LEAVER]
    at_once = other.ingest(posts=other.export(rows))
    assert dataset.read_samples(new) == dataset.read_samples(at_once)
    assert done.models == (outputs["model"].removeprefix(f"{root}/"),)
    assert manifest.verify(outputs["model"])
    assert check_store(root, silent).faults == []
    record = json.loads(store.read_bytes(store.join(root, str(done.record))))
    assert record["withdrawn"] == done.withdrawn
    assert not store.exists(store.join(root, forgotten.ERASING))


def test_who_reads_a_withdrawn_version_is_told_what_to_use(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    before = digest(first)
    done = forget(local, ACCOUNT, "acme", None, silent)
    [successor] = done.withdrawn.values()
    readers: list[Callable[[], Any]] = [
        lambda: dataset.read_samples(first),
        lambda: manifest.fetch_folder(first, tmp_path / "x"),
        lambda: manifest.read_file(first, "card.html"),
        lambda: grown.ingest(previous=first, posts=grown.export(posts(9, 3))),
        lambda: grown.perceive(first),
    ]
    for read in readers:
        with pytest.raises(WithdrawnError, match=rf"was withdrawn on 20.*; use .*{successor}$"):
            read()
    result = CliRunner().invoke(app, ["dataset", "show", first])
    assert isinstance(result.exception, WithdrawnError)
    # What was made from it is still verified by its manifest.
    assert digest(first) == before
    assert withdrawn.successor_of(first) == store.join(local, str(successor))
    # Once more for another: the note leads on to the end.
    forget(local, Subject("id", "al-0"), None, None, silent)
    newest = str(withdrawn.successor_of(first))
    assert {sample.post for sample in dataset.read_samples(newest)} == {
        "al-3", "al-6", "bo-1", "bo-4", "bo-7",
    }  # fmt: skip


@pytest.mark.parametrize("spelling", ["mallory", "@MALLORY", "  Mallory ", "Ｍａｌｌｏｒｙ"])
def test_no_ingestion_brings_it_back(local: str, tmp_path: Path, spelling: str) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    forget(local, Subject("account", spelling), None, None, silent)
    again = [*posts(0, 12), {**row("text", 1.0, "3.png", account=LEAVER), "likes": "no number"}]
    second = grown.ingest(posts=grown.export(again), previous=str(withdrawn.successor_of(first)))
    other = Grown(local, tmp_path / "o", "another")
    third = other.ingest(posts=other.export(again))
    for uri in (second, third):
        assert accounts_of(uri) == {"al", "bo"}
        left_out = [r for r in content(f"{uri}/{tables.REJECTS}") if r["code"] == "forgotten"]
        # Those of the export, and of the version before those that it held.
        count = 8 if uri == second else 5
        assert len(left_out) == count
        assert all(r["post"] is r["row"] is r["image"] is None for r in left_out)
        assert manifest.read_manifest(uri).meta["rejected_by_reason"] == {"forgotten": count}
        card = json.loads(manifest.read_file(uri, "card.json"))
        assert (card["rows"]["rejected"], card["rows"]["left_out"]) == (0, count)
    assert traces(local, [LEAVER, "text that"]) == []


def test_an_id_goes_from_its_dataset_alone_and_other_ids_stay(local: str, tmp_path: Path) -> None:
    one, two = Grown(local, tmp_path, "one"), Grown(local, tmp_path / "two", "two")
    uris = [grown.ingest(posts=grown.export(posts(0, 9))) for grown in (one, two)]
    before = store.list_files(uris[1])
    done = forget(local, Subject("id", " al-0 "), "one", None, silent)
    assert list(done.withdrawn) == [uris[0].removeprefix(f"{local}/")]
    assert store.list_files(uris[1]) == before
    new = str(withdrawn.successor_of(uris[0]))
    left = {sample.post for sample in dataset.read_samples(uris[1])} - {"al-0"}
    assert {sample.post for sample in dataset.read_samples(new)} == left
    again = two.ingest(posts=two.export(posts(0, 9)))
    assert "al-0" in {sample.post for sample in dataset.read_samples(again)}
    with pytest.raises(InputError, match=r"--name three.*use one of one, two"):
        survey(local, ACCOUNT, "three")


def test_without_apply_nothing_is_written(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = Grown(local, tmp_path)
    outputs = grow(grown)
    before = {
        file.path: store.read_bytes(store.join(local, file.path)) for file in store.walk(local)
    }
    model = outputs["model"]
    monkeypatch.setattr(registry, "named_models", lambda: {model: "champion"})
    result = CliRunner().invoke(app, ["forget", "--account", "mallory", "--store", local])
    assert result.exit_code == 0, result.output
    after = {
        file.path: store.read_bytes(store.join(local, file.path)) for file in store.walk(local)
    }
    assert after == before
    for name in ("first", "seen", "second", "newest", "evaluation", "report", "model"):
        assert outputs[name].removeprefix(f"{local}/") in result.output
    assert LEAVER.lower() not in result.output.lower()
    assert result.output.rstrip().endswith(f"champion   is {model.removeprefix(f'{local}/')}")
    assert "would go: 6 posts" in result.output


def test_each_branch_of_a_dataset_keeps_what_others_have_posted(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    trunk = grown.perceive(grown.ingest(posts=grown.export(posts(0, 9))))
    left = grown.ingest(posts=grown.export(posts(9, 3)), previous=trunk)
    right = grown.perceive(grown.ingest(posts=grown.export(posts(12, 3)), previous=trunk))
    apart = grown.ingest(posts=grown.export([p for p in posts(30, 6) if p["account"] != LEAVER]))
    before = store.list_files(apart)
    forget(local, ACCOUNT, None, None, silent)
    for uri, first, count in ((left, 9, 3), (right, 12, 3)):
        new = str(withdrawn.successor_of(uri))
        expected = {p["id"] for p in posts(0, 9) + posts(first, count) if p["account"] != LEAVER}
        assert {sample.post for sample in dataset.read_samples(new)} == expected
    assert store.list_files(apart) == before
    assert withdrawn.read(apart) is None


def test_posts_that_only_rejects_still_hold_go_with_their_images(
    local: str, tmp_path: Path
) -> None:
    grown = Grown(local, tmp_path)
    # So many of each account that some are drawn and others wait among the rejects.
    first = grown.ingest(posts=grown.export(posts(0, 18)))
    own = images_of(grown, LEAVER) - images_of(grown, "al") - images_of(grown, "bo")
    second = grown.ingest("data.max_posts=2", previous=first)
    for folder in (first,):
        for path, _ in store.list_files(folder):
            store.delete_file(store.join(folder, path))
    waiting = {r["post"] for r in content(f"{second}/{tables.REJECTS}")}
    assert any(post.startswith(LEAVER) for post in waiting)
    forget(local, ACCOUNT, None, None, silent)
    assert traces(local, [LEAVER, *own]) == []
    assert accounts_of(str(withdrawn.successor_of(second))) == {"al", "bo"}


def test_where_nothing_is_left_nothing_takes_its_place(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    rows = [item for item in posts(0, 9) if item["account"] == LEAVER]
    only = grown.ingest(posts=grown.export(rows))
    forget(local, ACCOUNT, None, None, silent)
    assert traces(local, [LEAVER]) == []
    assert withdrawn.successor_of(only) is None
    with pytest.raises(WithdrawnError, match="make it again: nothing has taken its place"):
        dataset.read_samples(only)
    assert check_store(local, silent).faults == []


def test_what_nobody_has_is_only_kept_out(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    before = store.list_files(first)
    done = forget(local, Subject("account", "nobody"), None, None, silent)
    assert (done.posts, done.withdrawn, done.models) == (0, {}, ())
    assert store.list_files(first) == before
    second = grown.ingest(
        posts=grown.export([*posts(9, 3), row("n", 9.0, "1.png", account="NoBody")]), previous=first
    )
    assert "NoBody" not in accounts_of(second)


def test_a_clean_up_and_a_copy_know_withdrawn_outputs(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    outputs = grow(grown)
    forget(local, ACCOUNT, None, None, silent)
    assert Inventory(local, 0.0, 0.0).foreign() == []
    found = survey_garbage(local, [], 0.0)
    gone = {garbage.uri for garbage in found.garbage}
    new = str(withdrawn.successor_of(outputs["newest"]))
    # The newest version stays, and what it was made from; notes do not make old ones newest.
    assert new not in gone
    target = str(tmp_path / "copy")
    copying.copy_store(local, target, silent)
    assert check_store(target, silent).faults == []
    assert accounts_of(new.replace(local, target)) == {"al", "bo"}
    other = Grown(target, tmp_path / "later")
    again = other.ingest(posts=other.export(posts(0, 9)))
    assert accounts_of(again) == {"al", "bo"}, "tombstones go with a copy"


@pytest.mark.parametrize("options", [[], ["--account", "a", "--id", "b"], ["--account", " @ "]])
def test_a_command_that_names_not_one_thing_is_refused(
    local: str, tmp_path: Path, options: list[str]
) -> None:
    Grown(local, tmp_path)
    result = CliRunner().invoke(app, ["forget", *options, "--store", local])
    assert isinstance(result.exception, InputError)


@given(name=st.text(min_size=1), pad=st.sampled_from(["", " ", "\t", "\n "]))
def test_all_spellings_of_a_name_are_one_and_a_tombstone_does_not_say_it(
    name: str, pad: str
) -> None:
    once = forgotten.normalized("account", name)
    assert forgotten.normalized("account", f"{pad}{name}{pad}") == once
    assert forgotten.normalized("account", once) == once or once.startswith("@")
    if once:
        subject = Subject("account", name)
        assert subject.matches(None, f"{pad}{name}{pad}")
        assert forgotten.hash_of("s", "account", name) != forgotten.hash_of("t", "account", name)
    assert forgotten.normalized("id", "AbC") != forgotten.normalized("id", "abc")
