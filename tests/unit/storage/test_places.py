"""Places: what lies in a store is named by its path below the root, what lies elsewhere by its
location, and nothing that a file names leads out of its store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.errors import CorruptError, InputError
from boig_core.storage import places, store
from boig_core.storage.paths import is_inner

ROOTS = st.sampled_from(["/data/store", "s3://bucket", "s3://bucket/pre/fix", "/runs/runs"])
# Signs that mean something in a path or an address come as often as letters.
PARTS = st.text(st.sampled_from("ab.:/\\#?%~ é\n"), min_size=1, max_size=8)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@given(ROOTS, PATHS)
def test_every_location_below_a_root_is_found_again_under_the_same_and_under_another(
    root: str, path: str
) -> None:
    uri = store.join(root, path)
    uri = uri if store.is_s3(uri) else store.normalize(uri)
    named = places.place_of(uri, root)
    assert places.locate(named, root) == uri.rstrip("/") or named == uri
    if is_inner(path) and "://" not in path:
        assert places.is_place(named)
        assert places.locate(named, "/moved") == f"/moved/{path}"
        assert places.root_of(uri, named) == root
    elif places.is_place(named):
        assert ".." not in named.split("/")


@given(ROOTS, ROOTS, PATHS)
def test_what_lies_elsewhere_keeps_its_location(root: str, other: str, path: str) -> None:
    uri = store.join(other, path)
    if not uri.startswith(f"{root}/") and (store.is_s3(uri) or is_inner(path)):
        assert places.place_of(uri, root) == uri
        assert places.locate(uri, root) == uri


@pytest.mark.parametrize("uri", ["https://x.y/posts.jsonl", "s3://bucket-2/a", "/data/store-2/a"])
def test_a_name_that_begins_alike_is_not_below(uri: str) -> None:
    for root in ("https://x.y/posts", "s3://bucket", "/data/store"):
        assert places.place_of(uri, root) == uri


def test_a_relative_location_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert places.place_of("posts.jsonl", "/data/store") == "/tmp/posts.jsonl"
    assert places.place_of("store/models/v", "/tmp/store") == "models/v"


BAD = ["", "..", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "/etc/passwd", "s3://b/k"]


@pytest.mark.parametrize("place", BAD)
def test_what_is_no_place_is_refused(place: str) -> None:
    assert not places.is_place(place)
    with pytest.raises(CorruptError, match="is no place in a store"):
        places.checked(place)
    with pytest.raises(CorruptError):
        places.root_of("/data/store/models/v", place)


def test_what_was_taken_out_of_its_store_says_so() -> None:
    with pytest.raises(CorruptError, match="taken out of its store, in which it is models/v"):
        places.root_of("/downloads/v", "models/v")


@pytest.mark.parametrize(
    "uris",
    [
        ("/a/runs/r", "/b/models/v"),
        ("s3://a/runs/r", "s3://b/models/v"),
        ("s3://a/runs/r", "/a/models/v"),
        ("/a/runs", "/a/runs/v"),
    ],
)
def test_an_attempt_and_its_outputs_share_a_store(uris: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="do not lie in one store"):
        places.common_root(*uris)
    assert places.common_root("/a/s/runs/r", "/a/s/models/v", "/a/s/models/w") == "/a/s"
