"""Odd JSON in a control file is a `CorruptError` with the file's name, whoever reads it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boig_core.errors import CorruptError, InputError
from boig_core.orchestration.planning.intervals import last_turn
from boig_core.storage import commit, control, manifest, marker, runs, store
from boig_core.storage.ancestry import RESUME, Resume, read_resume, write_resume
from boig_core.storage.job import TaskTry, read_job, starter_of, write_job
from boig_core.training.checkpoint_marker import read_marker
from tests.unit.storage.test_job import make_job

LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from(
        ["\ud800", "a\0", "gs://x", "s3://", "../../x", 10**400, -(10**20), "9" * 5000]
    ),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
BYTES = st.one_of(
    st.binary(max_size=40),
    TREES.map(lambda tree: json.dumps(tree).encode()),
    st.sampled_from(
        [
            *(
                b"",
                b"null",
                b"[]",
                b"{}",
                b'"x"',
                b"1",
                b"NaN",
                b'{"a": Infinity}',
                b'{"a": 1e999}',
            ),
            *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 60 + b"]" * 60, b"1" * 5000),
            *(
                b'{"a": "\\ud800"}',
                b'{"a": "\xed\xa0\x80"}',
                b"\xff\xfe{\x00}\x00",
                b"\xef\xbb\xbf{}",
            ),
        ]
    ),
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a tree, the tree itself last."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [*(place for key, value in inner for place in places(value, (*at, key))), at]


def changed(content: bytes, draw: st.DataObject) -> bytes:
    """A control file that was damaged: other bytes, or its own with one part of another kind."""
    tree = json.loads(content)
    if draw.draw(st.booleans()):
        return draw.draw(BYTES)
    at = draw.draw(st.sampled_from(places(tree)))
    value = draw.draw(TREES)
    if not at:
        return json.dumps(value).encode()
    tree = copy.deepcopy(tree)
    holder = tree
    for key in at[:-1]:
        holder = holder[key]
    if draw.draw(st.booleans()):
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return json.dumps(tree).encode()


def write_all(root: Path) -> dict[str, Path]:
    """A store with one of each control file."""
    this = make_job(str(root), run="one").model_copy(
        update={"started_by": TaskTry(run_after="2026-01-01", number=1, limit=2)}
    )
    write_job(this)
    folder = root / "out"
    folder.mkdir(parents=True)
    (folder / "x.txt").write_text("x")
    uri = str(root / "models" / "m" / "v1")
    at = f"{this.attempt_uri}/{commit.COMMIT}"
    lineage = manifest.Lineage(inputs={"a": "b"}, recipe="r", code="c")
    manifest.publish_folder(folder, uri, kind="k", lineage=lineage, commit=at, meta={"n": 1})
    commit.commit(this.attempt_uri, {"m": uri}, {"seconds": 1.5, "list": [1, {"deep": None}]})
    commit.write_failure(this.attempt_uri, ValueError("x"))
    write_resume(this.task, this.attempt, Resume(attempt=this.attempt, asked_by=("ada",)))
    store.write_bytes(
        f"{root}/{marker.MARKER}", marker.StoreMarker(id="0").model_dump_json().encode()
    )
    store.write_bytes(f"{root}/turns/000001.json", b'{"run": "r"}')
    points = f"{this.attempt_uri}/checkpoints/step-1"
    entry = {"path": "a", "size": 1, "sha256": "0" * 64}
    body = {
        "format": 5,
        "step": 1,
        "work": {"sd.lr": 0.1},
        "recipe": "r",
        "code": "c",
        "went_on_from": [{"checkpoint": "p", "step": 1, "recipe": "r", "code": "c"}],
        "workers": 1,
        "folder": "f0",
        "state": {"n": [1.5]},
    }
    store.write_bytes(f"{points}/complete.json", json.dumps({**body, "files": [entry]}).encode())
    store.write_bytes(f"{points}/part.json", json.dumps([entry]).encode())
    attempt = Path(this.attempt_uri)
    return {
        "job": attempt / "job.json",
        "commit": attempt / "commit.json",
        "error": attempt / "error.json",
        "resume": attempt / RESUME,
        "manifest": Path(uri) / "manifest.json",
        "marker": root / marker.MARKER,
        "turn": root / "turns" / "000001.json",
        "checkpoint": Path(points) / "complete.json",
        "part": Path(points) / "part.json",
    }


READERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("job", lambda file: read_job(str(file))),
    ("job", lambda file: starter_of(str(file.parent))),
    ("commit", lambda file: commit.read_commit(str(file.parent))),
    ("commit", lambda file: commit.fate(str(file.parent))),
    ("commit", lambda file: manifest.read_manifest(str(file.parents[5] / "models" / "m" / "v1"))),
    ("commit", lambda file: runs.run_state(str(file.parents[5]), "boig_ingest/one")),
    ("error", lambda file: commit.read_failure(str(file.parent))),
    ("resume", lambda file: read_resume(str(file.parents[1]), 1)),
    ("manifest", lambda file: manifest.verify(str(file.parent))),
    ("marker", lambda file: marker.read(str(file.parent))),
    ("turn", lambda file: last_turn(str(file.parent))),
    ("checkpoint", lambda file: read_marker(str(file.parent))),
    (
        "part",
        lambda file: control.read(str(file), tuple[manifest.FileEntry, ...], "a list of files", ""),
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize(("kind", "read"), READERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_damaged_control_file_is_named(
    files: dict[str, Path], kind: str, read: Callable[[Path], Any], draw: st.DataObject
) -> None:
    file = files[kind]
    whole = file.read_bytes()
    read(file)
    # What is no damage to this reader, such as another word, is read; any other error fails.
    error: Exception | None = None
    try:
        file.write_bytes(changed(whole, draw))
        read(file)
    except (CorruptError, InputError) as exc:
        error = exc
    finally:
        file.write_bytes(whole)
    assert error is None or str(files["marker"].parent) in str(error)
    assert "\n" not in str(error)
    assert kind == "checkpoint" or not isinstance(error, InputError), "of an older format"


@pytest.mark.parametrize(("kind", "read"), READERS)
@pytest.mark.parametrize(
    "content",
    [
        *(b"null", b"NaN", b'"x"', b"\xff", b"[" * 100_000, b"1" * 5000, b'{"a": 1e999}'),
        *(
            b'{"a": "\\ud800"}',
            b'{"a":' * 100_000,
            b"[" * 60 + b"]" * 60,
            b'{"a": 18446744073709551616}',
        ),
    ],
)
def test_no_reader_takes_what_is_no_control_file(
    files: dict[str, Path], kind: str, read: Callable[[Path], Any], content: bytes
) -> None:
    file = files[kind]
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        with pytest.raises(CorruptError, match=r"is not|names no"):
            read(file)
    finally:
        file.write_bytes(whole)


def test_only_a_training_s_state_may_hold_what_is_not_finite(files: dict[str, Path]) -> None:
    file = files["checkpoint"]
    tree = json.loads(file.read_bytes())
    file.write_text(json.dumps({**tree, "state": {"loss": float("inf")}}))
    assert read_marker(str(file.parent)).state == {"loss": float("inf")}
    with pytest.raises(CorruptError, match="a number that is not finite"):
        control.read_object(str(file), "a job", "see it")


def test_a_failure_with_half_a_character_is_written_so_that_it_can_be_read(tmp_path: Path) -> None:
    commit.write_failure(str(tmp_path), ValueError("no such file: \udcff.png"))
    failure = commit.read_failure(str(tmp_path))
    assert failure is not None
    assert failure.message == "no such file: \\udcff.png"
