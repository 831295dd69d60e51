"""What a reference means, as exports write it: one address, whatever tools have put around it."""

from __future__ import annotations

import os
import unicodedata
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.fetching.references import address_of, spellings, web_address
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError
from boig_core.storage import store
from tests.unit.data.conftest import picture

DISK, S3, WEB = (
    "/data/day/posts.jsonl",
    "s3://b/day/posts.jsonl",
    "https://h.example/f/p.jsonl?a=b/c",
)


@pytest.mark.parametrize(
    ("file", "reference", "address"),
    [
        (DISK, "images/1.png", "/data/day/images/1.png"),
        (DISK, " images/1.png\r\n", "/data/day/images/1.png"),
        (DISK, "\ufeff\u00a0images/1.png\u200b", "/data/day/images/1.png"),
        (DISK, "images/look #1 (50% off)?.png", "/data/day/images/look #1 (50% off)?.png"),
        (DISK, r"images\1.png", r"/data/day/images\1.png"),
        (DISK, r".\images\1.png", "/data/day/./images/1.png"),
        (S3, r"..\shared\1.png", "s3://b/shared/1.png"),
        (DISK, "/other/1.png", "/other/1.png"),
        (DISK, "//cdn.example/1.png", "https://cdn.example/1.png"),
        (DISK, "//cdn.example:8080/1.png", "https://cdn.example:8080/1.png"),
        (DISK, "//data/images/1.png", "//data/images/1.png"),
        (DISK, "file:/data/1.png", "file:///data/1.png"),
        (DISK, "FILE:///data/1.png", "file:///data/1.png"),
        (DISK, "https:/cdn.example/1.png", "https://cdn.example/1.png"),
        (DISK, r"https:\\cdn.example\a\1.png", "https://cdn.example/a/1.png"),
        (DISK, "HTTPS://cdn.example/A.PNG", "https://cdn.example/A.PNG"),
        (DISK, "https://cdn.example/a\n b.png", "https://cdn.example/a%20b.png"),
        (DISK, r"https:\/\/cdn.example\/a\/1.png", "https://cdn.example/a/1.png"),
        (DISK, r"images\/1.png", "/data/day/images/1.png"),
        (DISK, '"https://h/1.png"', "https://h/1.png"),
        (DISK, "<https://h/1.png>", "https://h/1.png"),
        (DISK, "'images/1.png '", "/data/day/images/1.png"),
        (DISK, "it's/1.png", "/data/day/it's/1.png"),
        (DISK, "s3:/b/1.png", "s3://b/1.png"),
        (DISK, "s3a://b/1.png", "s3://b/1.png"),
        (DISK, "s3:///1.png", "s3:///1.png"),
        (DISK, "data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        (DISK, r"C:\exports\1.png", r"C:\exports\1.png"),
        (DISK, "gs://b/1.png", "gs://b/1.png"),
        (S3, "./images/1.png", "s3://b/day/images/1.png"),
        (S3, "images/./a/../1.png", "s3://b/day/images/1.png"),
        (S3, "../shared/1.png", "s3://b/shared/1.png"),
        (S3, "../../../1.png", "s3://b/../../1.png"),
        (S3, "images//1.png", "s3://b/day/images//1.png"),
        (S3, "look #1+é?.png", "s3://b/day/look #1+é?.png"),
        (S3, "s3://b/day/./x/../1.png", "s3://b/day/1.png"),
        (S3, "//cdn.example/1.png", "https://cdn.example/1.png"),
        (WEB, "images/1.png", "https://h.example/f/images/1.png"),
        (WEB, r"images\1.png?a=\b", r"https://h.example/f/images/1.png?a=%5Cb"),
        (WEB, "/media/1.png", "https://h.example/media/1.png"),
        (WEB, "//cdn/1.png", "https://cdn/1.png"),
        (WEB, "../1.png#top", "https://h.example/1.png"),
        (WEB, "../../../1.png", "https://h.example/1.png"),
        (WEB, "http://other.example/1.png", "http://other.example/1.png"),
        (WEB, "file:///etc/passwd", "file:///etc/passwd"),
        (WEB, "s3://b/1.png", "s3://b/1.png"),
        (WEB, r"C:\1.png", r"C:\1.png"),
        (WEB, "http://[::1/x", "http://[::1/x"),
    ],
)
def test_one_address_for_each_reference(file: str, reference: str, address: str) -> None:
    assert address_of(file, reference) == address


SIGNED = (
    "https://b.s3.example/a%2Fb%20c%2f.png?X-Amz-Credential=A%2F2026%2fs3&X-Amz-Signature=0a%2B+/=~"
)


@pytest.mark.parametrize(
    ("written", "carried"),
    [
        (SIGNED, SIGNED),
        ("https://h/a b.png", "https://h/a%20b.png"),
        ("https://h/münchen.png?q=ü", "https://h/m%C3%BCnchen.png?q=%C3%BC"),
        ("https://h/100%.png?off=50%&b=%20", "https://h/100%25.png?off=50%25&b=%20"),
        ("https://h/q.png?w=1&h=2#top", "https://h/q.png?w=1&h=2"),
        ("https://h/a?w=1&amp;h=2&#038;s=%26amp;#x", "https://h/a?w=1&h=2&s=%26amp;"),
        ("https://h?x=1#/y", "https://h?x=1"),
        ('https://h/{a}|"b"<c>.png', "https://h/%7Ba%7D%7C%22b%22%3Cc%3E.png"),
        ("HTTP://Host.Example:80/A", "http://Host.Example:80/A"),
        ("http://mu\u0308nchen.example/", "http://m\u00fcnchen.example/"),
    ],
)
def test_what_may_not_stand_in_a_request_is_quoted_and_nothing_twice(
    written: str, carried: str
) -> None:
    assert web_address(written) == carried


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="#\\&\t\r\n"), max_size=40)
)
def test_a_carried_address_means_the_written_one_and_stays_as_it_is(text: str) -> None:
    carried = web_address(f"http://h/x{text}.")
    assert carried.isascii()
    assert carried.isprintable()
    assert " " not in carried
    assert web_address(carried) == carried
    assert unquote_to_bytes(carried) == unquote_to_bytes(f"http://h/x{text}.")


def test_spellings_end_and_never_repeat() -> None:
    assert list(spellings("images/1.png")) == []
    assert list(spellings(r"a\%20é")) == [
        *(unicodedata.normalize("NFD", r"a\%20é"), r"a\ é"),
        *(unicodedata.normalize("NFD", r"a\ é"), "a/%20é"),
        *(unicodedata.normalize("NFD", "a/%20é"), "a/ é"),
        unicodedata.normalize("NFD", "a/ é"),
    ]
    assert list(spellings("%ff.png")) == []


def read(base: str, address: str, *roots: str) -> bytes | str:
    """What an image reference leads to, or the code of why there is nothing."""
    try:
        return Fetcher(Data()).read(ImageReference(base, address), Reach.of(roots))
    except Rejected as exc:
        return exc.code


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
WRITTEN = [
    ("images/1.png", r"images\1.png"),
    ("images/1.png", r".\images\1.png"),
    (f"images/{DECOMPOSED}", f"images/{COMPOSED}"),
    (f"images/{COMPOSED}", f"images/{DECOMPOSED}"),
    ("my photo #1.png", "my%20photo%20%231.png"),
    ("my%20photo.png", "my%20photo.png"),
    ("my photo (2)+é.png", "my+photo+%282%29%2B%C3%A9.png"),
    (r"images\1.png", r"images\1.png"),
    ("100% wool?.png", "100% wool?.png"),
    ("a+b c.png", "a+b c.png"),
]


IN_OTHER_CASE = [("Images/Sub/1.PNG", "images/sub/1.png"), ("images/1.jpg", r"Images\1.JPG")]


@pytest.mark.parametrize(("name", "written"), [*WRITTEN, *IN_OTHER_CASE])
@pytest.mark.parametrize("folder", ["day", "export [2024]", "100%", "a b%20c"])
def test_a_name_on_disk_is_read_as_it_was_meant(
    tmp_path: Path, folder: str, name: str, written: str
) -> None:
    home = tmp_path / folder
    (home / name).parent.mkdir(parents=True)
    (home / name).write_bytes(picture(1))
    file = str(home / "posts.jsonl")
    assert read(str(home), address_of(file, written)) == picture(1)


@pytest.mark.parametrize("prefix", ["day", "Q1 #2", "100%"])
def test_a_name_in_s3_is_read_as_it_was_meant(s3_bucket: str, prefix: str) -> None:
    base = f"{s3_bucket}/{prefix}"
    for number, (name, written) in enumerate(WRITTEN):
        home = f"{base}/{number}"
        store.write_bytes(f"{home}/{name}", picture(number))
        assert read(home, address_of(f"{home}/posts.jsonl", written)) == picture(number)


def test_the_name_as_it_is_written_comes_first(tmp_path: Path) -> None:
    names = [r"images\1.png", "images/1.png", "a%20b.png", "a b.png", COMPOSED, DECOMPOSED]
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(number))
    for number, name in enumerate(names):
        assert read(str(tmp_path), f"{tmp_path}/{name}") == picture(number)


def test_of_names_that_differ_in_case_none_is_chosen(tmp_path: Path) -> None:
    for number, name in enumerate(["A.png", "a.PNG"]):
        (tmp_path / name).write_bytes(picture(number))
    assert read(str(tmp_path), f"{tmp_path}/a.png") == "image_missing"
    (tmp_path / "a.PNG").unlink()
    assert read(str(tmp_path), f"{tmp_path}/a.png") == picture(0)


@pytest.mark.parametrize(
    "written",
    [
        r"..\secret\a.png",
        r"images\..\..\secret\a.png",
        "%2e%2e/secret/a.png",
        "..%2fsecret%2fa.png",
        r"..%5csecret%5ca.png",
        "OUT/a.png",
        r"Out\A.PNG",
        "file:///%2e%2e/secret/a.png",
        "SECRET/a.png",
    ],
)
def test_no_spelling_leads_out_of_the_export(tmp_path: Path, written: str) -> None:
    home = tree(tmp_path / "home")
    address = address_of(f"{home}/posts.jsonl", written)
    assert read(str(home), address) in {"place_refused", "image_missing"}


STEPS = [
    "..",
    ".",
    "images",
    "out",
    "OUT",
    "%2e%2e",
    r"..\..",
    r"images\..\..",
    "secret",
    "A.png",
    "é",
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(STEPS), max_size=6), st.sampled_from(["", "file://", "/"]))
def test_every_place_that_is_tried_lies_below_the_export(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], start: str
) -> None:
    home = tree(tmp_path_factory.getbasetemp() / "tried")
    tail = "/".join(steps)
    written = f"{start}{home}/{tail}" if start == "file://" else f"{start}{tail}"
    address = address_of(f"{home}/posts.jsonl", written)
    with suppress(Rejected):
        for place in Reach().locations(ImageReference(str(home), address)):
            assert place.startswith(f"{home}/")
            assert os.path.realpath(place) == place


def tree(folder: Path) -> Path:
    """A folder of posts with a link that leads out of it, and a secret beside it."""
    if not folder.exists():
        for name in ("posts/images", "secret"):
            (folder / name).mkdir(parents=True)
        (folder / "secret" / "a.png").write_bytes(picture(1))
        (folder / "posts" / "out").symlink_to(folder / "secret")
    return folder / "posts"


def test_no_spelling_leads_out_of_a_prefix(s3_bucket: str) -> None:
    base = f"{s3_bucket}/inside"
    store.write_bytes(f"{s3_bucket}/outside/a.png", picture(1))
    for written in ("../outside/a.png", r"..\outside\a.png", "%2e%2e/outside/a.png"):
        address = address_of(f"{base}/posts.jsonl", written)
        assert read(base, address) == "place_refused"
    address = address_of(f"{base}/posts.jsonl", "../outside/a.png")
    assert read(base, address, f"{s3_bucket}/outside") == picture(1)


@pytest.mark.parametrize(
    "written",
    [r"C:\exports\images\1.png", "C:/exports/1.png", r"\\nas\share\1.png", "file:///C:/1.png"],
)
@pytest.mark.parametrize("base", ["/data/day", "s3://b/day"])
def test_a_path_of_a_windows_machine_is_named_as_such(base: str, written: str) -> None:
    address = address_of(f"{base}/posts.jsonl", written)
    with pytest.raises(Rejected, match=r"path of a Windows machine") as refused:
        Reach().locate(ImageReference(base, address))
    assert refused.value.code == "image_missing"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("S3://exports/day", "s3://exports/day"),
        ("s3:/exports/day/", "s3://exports/day"),
        ("s3a://exports/day", "s3://exports/day"),
        (" s3://exports/Q1 #2 \n", "s3://exports/Q1 #2"),
        ("file:///data/My%20Export", "/data/My Export"),
        ("file:/data/Q1 #2?", "/data/Q1 #2?"),
        ("File://localhost/data/x", "/data/x"),
        ("HTTPS://h.example/posts.jsonl", "https://h.example/posts.jsonl"),
        ("https:/h.example/posts.jsonl", "https://h.example/posts.jsonl"),
        ("/data/export [2024]", "/data/export [2024]"),
    ],
)
def test_a_location_of_posts_is_read_as_it_was_meant(written: str, meant: str) -> None:
    assert store.normalize_source(written) == meant


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        (r"C:\exports\posts.jsonl", "path of a Windows machine"),
        (r"\\nas\exports", "path of a Windows machine"),
        ("file://data/posts.jsonl", "another machine"),
        ("s3:///day", "names no bucket"),
        ("gs://b/day", "is no store"),
    ],
)
def test_a_location_that_can_be_none_is_one_clear_error(written: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        store.normalize_source(written)
