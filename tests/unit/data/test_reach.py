"""What a posts file may name: its own folder, roots and the web, whatever way leads elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.data import dataset, tables
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.rejects import Rejected
from tests.unit.data.conftest import Archive, picture, row


def verdict(base: str, address: str, *roots: str) -> str:
    """``reached``, or the code of why not."""
    try:
        Reach.of(roots).locate(ImageReference(base, address))
    except Rejected as exc:
        return exc.code
    return "reached"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of posts with links that stay and links that leave, a secret, and a root."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("posts/images", "posts-of-another", "root", "secret"):
        (home / folder).mkdir(parents=True)
        (home / folder / "a.png").write_bytes(picture(1))
    (home / "posts" / "out").symlink_to(home / "secret")
    (home / "posts" / "out.png").symlink_to("../secret/a.png")
    (home / "posts" / "twice").symlink_to("out")
    (home / "posts" / "in").symlink_to("images")
    (home / "posts" / "loop").symlink_to("loop")
    (home / "link-to-posts").symlink_to("posts")
    return home


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("posts/images/a.png", "reached"),
        ("posts/in/a.png", "reached"),
        ("posts/none.png", "reached"),
        ("posts/images/../images/a.png", "reached"),
        ("link-to-posts/images/a.png", "reached"),
        ("posts/%2e%2e/secret/a.png", "reached"),
        ("root/a.png", "reached"),
        ("posts/../secret/a.png", "place_refused"),
        ("posts/out/a.png", "place_refused"),
        ("posts/out.png", "place_refused"),
        ("posts/twice/a.png", "place_refused"),
        ("posts/in/../../secret/a.png", "place_refused"),
        ("posts/loop/../out/a.png", "place_refused"),
        ("posts/loop/../images/a.png", "reached"),
        ("posts/loop/a.png", "reached"),
        ("posts-of-another/a.png", "place_refused"),
        ("posts", "place_refused"),
        ("root/../secret/a.png", "place_refused"),
        ("posts/a\0.png", "image_missing"),
    ],
)
def test_a_local_export_names_its_folder_and_roots(tree: Path, address: str, expected: str) -> None:
    assert verdict(f"{tree}/posts", f"{tree}/{address}", f"{tree}/root/") == expected
    if "\0" not in address and "%" not in address:
        assert verdict(f"{tree}/link-to-posts", f"file://{tree}/{address}", f"{tree}/root") == (
            expected
        )


@pytest.mark.parametrize(
    ("base", "address", "expected"),
    [
        ("/posts", "/etc/passwd", "place_refused"),
        ("/posts", "/proc/self/environ", "place_refused"),
        ("/posts", "file:///posts/%2e%2e/etc/passwd", "place_refused"),
        ("/posts", "file:///posts/..%2fetc/passwd", "place_refused"),
        ("/posts", "file://host/posts/a.png", "place_refused"),
        ("/posts", "file://localhost/posts/a.png", "reached"),
        ("/posts", "FILE:///posts/a.png", "reached"),
        ("/posts", "file:///posts/%00", "image_missing"),
        ("/posts", "file://[x", "image_missing"),
        ("/posts", "s3://b/x.png", "place_refused"),
        ("/posts", "https://host/x.png", "reached"),
        ("/posts", "HTTP://host/x.png", "reached"),
        ("/posts", "ftp://host/x.png", "image_missing"),
        ("/posts", "", "image_missing"),
        ("/posts", "a.png", "image_missing"),
        ("", "/images/a.png", "reached"),
        ("s3://b/p", "s3://b/p/images/a.png", "reached"),
        ("s3://b/p", "S3://b/p/a.png", "reached"),
        ("s3://b/p", "s3://b/p/a..b/..c.png", "reached"),
        ("s3://b", "s3://b/a.png", "reached"),
        ("s3://b", "s3://b-2/a.png", "place_refused"),
        ("s3://b/p", "s3://b/p-2/a.png", "place_refused"),
        ("s3://b/p", "s3://b/a.png", "place_refused"),
        ("s3://b/p", "s3://other/p/a.png", "place_refused"),
        ("s3://b/p", "s3://b/p/../a.png", "place_refused"),
        ("s3://b/p", "s3://b/p/..", "place_refused"),
        ("s3://b/p", "s3://b/p/%2e%2e/a.png", "place_refused"),
        ("s3://b/p", "s3://b/p/.%252e%252Fa.png", "place_refused"),
        ("s3://b/p", "s3://b/p/..\\a.png", "place_refused"),
        ("s3://b/p", "s3:///x", "place_refused"),
        ("s3://b/p", "s3://Bad!!/x", "place_refused"),
        ("s3://b/p", "s3://b/p/" + "x" * 1100, "image_missing"),
        ("s3://b/p", "s3://b/p/a\n.png", "image_missing"),
        ("s3://b/p", "/etc/passwd", "place_refused"),
        ("s3://b/p", "file:///s3:/b/p/a.png", "place_refused"),
        ("s3://b/p", "http://host/x.png", "reached"),
        ("https://host/p", "https://other/x.png", "reached"),
        ("https://host/p", "/etc/passwd", "place_refused"),
        ("https://host/p", "//other/x.png", "place_refused"),
        ("https://host/p", "file:///etc/passwd", "place_refused"),
        ("https://host/p", "s3://root/a.png", "place_refused"),
        ("HTTPS://host/p", "/root/a.png", "place_refused"),
    ],
)
def test_what_each_kind_of_export_may_name(base: str, address: str, expected: str) -> None:
    assert verdict(base, address, "s3://root-2", "/root-2") == expected


def test_roots_let_in_what_lies_below_them_and_nothing_beside() -> None:
    roots = ("s3://pictures/2026/", "/data/pictures")
    for base in ("/posts", "s3://b/p"):
        assert verdict(base, "s3://pictures/2026/a.png", *roots) == "reached"
        assert verdict(base, "/data/pictures/a.png", *roots) == "reached"
        assert verdict(base, "s3://pictures/2026-2/a.png", *roots) == "place_refused"
        assert verdict(base, "/data/pictures-2/a.png", *roots) == "place_refused"
    assert verdict("https://host", "s3://pictures/2026/a.png", *roots) == "place_refused"


STEPS = ["..", ".", "", "images", "in", "out", "twice", "loop", "posts", "secret", "a.png"]


@settings(max_examples=300)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=7), quoted=st.booleans())
def test_no_way_on_disk_leads_out(tree: Path, steps: list[str], quoted: bool) -> None:
    """Whatever is let through is, to the operating system, a place below the folder."""
    path = "/".join([f"{tree}/posts", *steps])
    address = f"file://{path.replace('..', '%2E%2e')}" if quoted else path
    answer = verdict(f"{tree}/posts", address)
    assert answer in {"reached", "place_refused"}
    if answer != "reached":
        return
    place = Reach().locate(ImageReference(f"{tree}/posts", address))
    inside = os.path.realpath(tree / "posts")
    assert os.path.realpath(place) == place
    assert place.startswith(f"{inside}/")
    if os.path.exists(path):
        assert os.path.samefile(path, place)


def rejects(uri: str) -> dict[str, str]:
    table = pq.read_table(Path(uri) / tables.REJECTS).to_pylist()
    return {item["image"]: item["code"] for item in table}


def test_posts_do_not_bring_files_of_the_machine_into_a_dataset(archive: Archive) -> None:
    """A picture outside the export is not stored by any name, and is below a root."""
    outside = archive.folder / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(picture(7))
    ways = [
        "../outside/secret.png",
        str(outside / "secret.png"),
        f"file://{outside}/secret.png",
        "link.png",
        "s3://bucket/secret.png",
    ]
    rows = [row("good", 50, "0.png"), *(row(f"w{i}", 60, way) for i, way in enumerate(ways))]
    location = archive.export(rows, {"0.png": picture(0)})
    (Path(location) / "link.png").symlink_to(outside / "secret.png")
    uri = archive.ingest(location)
    assert rejects(uri) == dict.fromkeys(ways, "place_refused")
    assert {sample.id for sample in dataset.read_samples(uri)} == {"good"}
    allowed = archive.ingest(location, roots=(str(outside),))
    assert rejects(allowed) == {"s3://bucket/secret.png": "place_refused"}


BAD_NAMES = [
    "s3:///x",
    "s3://Bad!!/x",
    "s3://",
    "a\0b.png",
    "\0",
    "file://\0",
    "file://[::1",
    "http://[::1/x.png",
    "http://\x00/x",
    "x" * 4000,
    "/" + "x/" * 2000,
    "http://" + "x" * 4000,
    "http://" + "x." * 1900 + "/",
    "\u202e\u0000\ufffe.png",
    "\U0001f5bc.png",
    "\x1b[31m.png",
    "~root/x.png",
    "://x",
    "?",
    "#",
    "..",
    "/",
    "C:\\x.png",
]


def test_a_bad_name_is_a_reject_and_never_the_end_of_the_run(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boig_core.data.fetching.fetch.time.sleep", lambda seconds: None)
    rows: list[dict[str, Any]] = [row("good", 50, "0.png", *BAD_NAMES)]
    rows += [row("long", 50, "x" * 10_000), row("half", 50, "\ud800.png")]
    uri = archive.ingest(archive.export(rows, {"0.png": picture(0)}))
    table = pq.read_table(Path(uri) / tables.REJECTS).to_pylist()
    lost = {item["image"] for item in table if item["image"] is not None}
    assert lost == set(BAD_NAMES)
    assert {item["post"]: item["code"] for item in table if item["image"] is None} == {
        "long": "row_too_large",
        "half": "encoding",
    }
    assert all(len(item["reason"]) <= 600 for item in table)
    # The row once, and not with each of its images.
    assert len([item for item in table if item["post"] == "good" and item["row"]]) == 1
    assert json.loads(next(item["row"] for item in table if item["row"]))
