"""Images of a row: lists as CSV cells hold them, and what is no reference."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.data.cells.image_cells import image_references, listed_texts, without_embedded
from boig_core.data.rejects import Rejected

NAMES = st.lists(
    st.from_regex(r"[a-z0-9_/-]{0,8}[a-z0-9]\.(png|jpg|JPEG|webp)", fullmatch=True)
    | st.from_regex(r"https://[a-z]{1,8}\.com/[a-z0-9]{1,8}(\?w=1,2)?", fullmatch=True),
    min_size=2,
    max_size=5,
    unique=True,
)


@given(names=NAMES)
def test_a_list_in_brackets_reads_back_equal(names: list[str]) -> None:
    for cell in (json.dumps(names), str(names), str(tuple(names)), str(names).replace(",", "")):
        if "?w" in cell and cell == str(names).replace(",", ""):
            continue  # the commas of the addresses are gone, too
        assert image_references({"images": cell}) == tuple(names)
    assert image_references({"images": [f" {name}\n" for name in names]}) == tuple(names)


@given(
    names=NAMES.filter(lambda names: not any("://" in name for name in names)),
    sign=st.sampled_from(["|", ",", ";", "\n", " ", ", ", " | "]),
)
def test_names_of_images_with_a_sign_between_are_a_list(names: list[str], sign: str) -> None:
    assert image_references({"image": sign.join(names)}) == tuple(names)


@given(
    names=NAMES.filter(lambda names: all("://" in name for name in names)),
    sign=st.sampled_from(["|", ",", ";", "\n", " ", ", "]),
)
def test_addresses_with_a_sign_between_are_a_list(names: list[str], sign: str) -> None:
    assert image_references({"image": sign.join(names)}) == tuple(names)


@pytest.mark.parametrize(
    "name",
    [
        "a b.png",
        "a,b.png",
        "x;y.jpg",
        "my photos/1.png",
        "https://a.com/x?u=1,2;v=a.png",
        "[2024]/a.png",
        "https://a.com/w_300,c_fit/https://b.com/x.png",
        "(1).png",
        "a.png?b",
        "images/a",
        "C:\\a.png",
    ],
)
def test_one_image_whose_name_holds_such_signs(name: str) -> None:
    assert image_references({"image": f" {name}\t"}) == (name,)


def test_what_stands_for_nothing_in_a_list_is_passed_over() -> None:
    cell: list[Any] = ["a.png", None, "", float("nan"), "null", {"url": "b.png"}, "a.png"]
    assert image_references({"images": cell}) == ("a.png", "b.png")
    assert image_references({"images": "['a.png', None, nan]"}) == ("a.png",)
    assert image_references({"images": "[]", "image": "c.png"}) == ("c.png",)
    assert image_references({"images": float("nan"), "image": "c.png"}) == ("c.png",)
    assert image_references({"image": {"url": "b.png"}}) == ("b.png",)


@pytest.mark.parametrize(
    ("value", "code", "why"),
    [
        ([], "missing_field", "missing"),
        ([None, "nan"], "missing_field", "missing"),
        ("a|b", "image_missing", "list"),
        ("[a, b]", "image_missing", "list"),
        (7, "image_missing", "no reference"),
        ([["a.png"]], "image_missing", "no reference"),
        ({"href": "a.png"}, "image_missing", "url"),
        ({"bytes": "x", "path": "a.png"}, "image_missing", "embedded"),
        (b"\x89PNG\r\n", "image_missing", "embedded"),
        ("data:image/png;base64,iVBORw0KGgo", "image_missing", "embedded image .image/png"),
        ("iVBORw0KGgo" + "A" * 400, "image_missing", "embedded"),
        (["a.png", "DATA:image/gif,x"], "image_missing", "embedded"),
        ([f"{i}.png" for i in range(201)], "row_too_large", "201"),
        ("a" * 4097, "row_too_large", "4097"),
    ],
)
def test_what_is_no_reference_says_why(value: Any, code: str, why: str) -> None:
    with pytest.raises(Rejected, match=why) as caught:
        image_references({"image": value})
    assert caught.value.code == code
    assert len(caught.value.reason) < 300


def test_an_embedded_image_does_not_make_its_row_too_large() -> None:
    fields = without_embedded({"id": 1, "image": "data:image/png;base64," + "A" * 3_000_000})
    assert len(json.dumps(fields)) < 400
    fields = without_embedded({"id": 1, "images": ["a.png", "data:," + "A" * 3_000_000]})
    assert len(json.dumps(fields)) < 400
    with pytest.raises(Rejected, match="embedded"):
        image_references(fields)


def test_a_long_run_of_signs_is_gone_through_once() -> None:
    """A cell may have a million characters; what looks at each of them from each takes hours."""
    with pytest.raises(Rejected, match="characters"):
        image_references({"image": "https://a.com/x" + " ," * 400_000 + "x"})


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("red, Blue ;x", ["red", "Blue", "x"]),
        ("['red', 'blue']", ["red", "blue"]),
        ('["red"]', ["red"]),
        ("#red #blue", ["red", "blue"]),
        ("red tent", ["red tent"]),
        ([{"tag": "red"}, "#blue", None, 7, {"id": 1}], ["red", "blue"]),
        ("nan, red", ["red"]),
        (None, []),
        (float("nan"), []),
        (7, []),
    ],
)
def test_keywords_of_a_cell(value: Any, texts: list[str]) -> None:
    assert listed_texts(value) == texts
