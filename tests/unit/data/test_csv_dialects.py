"""CSV as the world writes it: each file comes back as it was written, or is named in one line."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.reading import csv_rows
from boig_core.data.reading.sources import describe_file, read_rows
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError

HEADER = "id,account,timestamp,text,image,likes"
ROW = 'p1,acme,2023-05-01,"Boots, and ""more""",1.png,12'


def rows_of(folder: Path, content: str | bytes, **rules: Any) -> list[Any]:
    file = folder / "posts.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row for _, row in read_rows(str(file), Data(**rules))]


def texts_of(folder: Path, content: str | bytes, **rules: Any) -> list[str]:
    return [
        f"{row.code}: {row.reason}" if isinstance(row, Rejected) else row["text"]
        for row in rows_of(folder, content, **rules)
    ]


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


SEMICOLONS = (HEADER.replace(",", ";"), "p1;acme;2023-05-01;Boots, and more;1.png;1,5")
KINDS: dict[str, tuple[str, str]] = {
    "commas": (lines(HEADER, ROW), 'Boots, and "more"'),
    "semicolons": (lines(*SEMICOLONS), "Boots, and more"),
    "a line of Excel": (lines("sep=;", *SEMICOLONS), "Boots, and more"),
    "a line of Excel in quotes": (lines('"sep=;"', *SEMICOLONS), "Boots, and more"),
    "an odd delimiter of Excel": (lines("sep=^", *(row.replace(";", "^") for row in SEMICOLONS)), "Boots, and more"),
    "tabs": (lines(*SEMICOLONS).replace(";", "\t"), "Boots, and more"),
    "bars": (lines(*SEMICOLONS).replace(";", "|"), "Boots, and more"),
    "line ends of old Macs": (lines(HEADER, ROW).replace("\n", "\r"), 'Boots, and "more"'),
    "backslash quotes": (lines(HEADER, r'p1,acme,2023,"Boots \"old\", C:\new",1.png,1'), r'Boots "old", C:\new'),
    "backslash delimiters": (lines(HEADER, r"p1,acme,2023,Boots\, and more,1.png,1"), "Boots, and more"),
    "single quotes": (lines(HEADER, "p1,acme,2023,'Boots, it''s you',1.png,1"), "Boots, it's you"),
    "all in single quotes": (lines("'id','text'", "'p1','Boots'"), "Boots"),
    "a text in single quotes": (lines(HEADER, "p1,acme,2023,'Boots',1.png,1"), "'Boots'"),
    "apostrophes": (lines(HEADER, "p1,acme,2023,'tis isn't,1.png,1"), "'tis isn't"),
    "no quotes": (lines(HEADER, 'p1,acme,2023,5" boots,1.png,1'), '5" boots'),
    "an open quote": (lines(HEADER, 'p1,acme,2023,"Boots,1.png,1'), '"Boots'),
    "spaces in the header": (lines(HEADER.replace(",", " , "), ROW), 'Boots, and "more"'),
    "spaces before quotes": (lines("id, account, text", 'p1, acme, "Boots, and more"'), "Boots, and more"),
    "columns without a name": (lines(f"{HEADER},,", f"{ROW},,", ",,,,,,,", ","), 'Boots, and "more"'),
    "a delimiter at the end of rows": (lines(HEADER, f"{ROW},"), 'Boots, and "more"'),
    "an index without a name": (lines(f",{HEADER}", f"0,{ROW}"), 'Boots, and "more"'),
    "a title": (lines("Report of May", "", HEADER, ROW), 'Boots, and "more"'),
    "lines about the export": (lines("Account,acme", "From,2023-05-01", "", HEADER, ROW), 'Boots, and "more"'),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_programs_write_is_read_as_it_was_meant(tmp_path: Path, kind: str) -> None:
    content, text = KINDS[kind]
    assert texts_of(tmp_path, content) == [text]


REFUSED: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "a delimiter in a text": (
        lines(HEADER, ROW, "p2,acme,2023,Boots, more,1.png,1"), {}, ['Boots, and "more"', "bad_json: has 7 columns, the header names 6"],
    ),
    "a value under no name": (lines(f"{HEADER},", f"{ROW},3"), {}, ["bad_json: has 7 columns, the header names 6"]),
    "missing cells": (lines(HEADER, ROW, "p2,acme"), {}, ['Boots, and "more"', "bad_json: has 2 columns, the header names 6"]),
    "a quote within quotes": (
        lines(HEADER, ROW, 'p2,acme,2023,"5" boots",1.png,1', ROW), {},
        ['Boots, and "more"', "bad_json: is no CSV row (',' expected after '\"')", 'Boots, and "more"'],
    ),
    "an open quote": (
        lines(HEADER, ROW, 'p2,acme,2023,"Boots,1.png,1', ROW, ROW), {},
        ['Boots, and "more"', "bad_json: is no CSV row (',' expected after '\"')", 'Boots, and "more"', 'Boots, and "more"'],
    ),
    "an open quote at the end": (
        lines(HEADER, ROW, 'p2,acme,2023,"Boots,1.png,1', "p3,acme,2023,Boots,1.png,1"), {},
        ['Boots, and "more"', "bad_json: is no CSV row (unexpected end of data)", "Boots"],
    ),
    "quotes that the recipe denies": (lines("id,text", 'p1,"Boots"'), {"quote": ""}, ['"Boots"']),
    "a delimiter that the recipe names": (lines("id^text", "p1^Boots"), {"delimiter": "^"}, ["Boots"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_may_be_read_in_two_ways_is_a_reject_and_its_neighbors_are_not(
    tmp_path: Path, kind: str
) -> None:
    content, dialect, expected = REFUSED[kind]
    assert texts_of(tmp_path, content, dialect=dialect) == expected


def test_rejects_name_the_line_where_a_quote_opens(tmp_path: Path) -> None:
    torn = 'p2,acme,2023,"Boots,1.png,1'
    two = ROW.replace("and", "a\nd")
    rows_of(tmp_path, lines("Report", HEADER, two, torn, ROW, two))
    found = list(read_rows(str(tmp_path / "posts.csv"), Data()))
    assert [(line, isinstance(row, Rejected)) for line, row in found] == [
        (4, False),
        (5, True),
        (6, False),
        (8, False),
    ]


def test_a_file_without_even_rows_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"line 2 has 3 columns, the header names 2; .*data\.dialect"
    ):
        rows_of(tmp_path, lines("Name,Caption", "a,b,c", "d,e,f"))
    with pytest.raises(InputError, match=r"two columns of one name \(text\)"):
        rows_of(tmp_path, lines("id,text,text", "1,a,b"))


def test_open_quotes_do_not_take_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line opens a quote: rows behind it are read again within a bound."""
    monkeypatch.setattr(csv_rows, "_MOST_REREAD", 10_000)
    content = lines(HEADER, ROW, *(['p2,"x,y", "'] * 3000))
    assert texts_of(tmp_path, content)[0] == 'Boots, and "more"'


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_told_and_shown(tmp_path: Path, encoding: str) -> None:
    row = ROW.replace("Boots", "Dernière soirée d’été à Zürich – 5 €")
    assert texts_of(tmp_path, lines(HEADER, row).encode(encoding)) == [
        'Dernière soirée d’été à Zürich – 5 €, and "more"'
    ]
    shown = describe_file(str(tmp_path / "posts.csv"), Data(dialect={"delimiter": ","}))
    assert encoding.startswith(str(shown.encoding)[:6])
    assert shown.sniffed == {"encoding", "quote", "escape"}
    assert shown.columns == tuple(HEADER.split(","))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "Zażółć gęślą jaźń, było lato"),
        ("cp1250", "Příliš žluťoučký kůň úpěl"),
        ("cp1250", "Árvíztűrő tükörfúrógép, hűvös ősz"),
        ("cp1251", "Новая коллекция обуви"),
        ("cp1253", "Νέα συλλογή παπουτσιών"),
        ("cp1254", "Yeni ayakkabı, şık ve güneşli"),
        ("cp1257", "Šiandien nauji batai, žalia vasara"),
        ("mac_roman", "Dernière soirée d’été à Zürich"),
        ("mac_roman", "La canción de mañana, ¿qué tal?"),
        ("cp850", "Dernière soirée d'été à Zürich"),
        ("shift_jis", "新しい靴のコレクション、今日から。"),
        ("gbk", "新鞋系列今日上市。"),
        ("euc_kr", "새로운 신발 컬렉션"),
        ("koi8_r", "Новая коллекция обуви"),
    ],
)
def test_another_encoding_is_never_taken_for_windows_1252(
    tmp_path: Path, encoding: str, text: str
) -> None:
    content = lines(HEADER, *[ROW.replace("Boots, and", text)] * 4).encode(encoding)
    with pytest.raises(InputError, match=r"encoding that cannot be told.*data\.dialect\.encoding"):
        rows_of(tmp_path, content)
    assert texts_of(tmp_path, content, dialect={"encoding": encoding})[0] == f'{text} "more"'


def test_a_few_odd_bytes_are_rejects_of_a_file_in_utf8(tmp_path: Path) -> None:
    torn = ROW.encode().replace(b"Boots", b"B\xe9\x81ts")
    content = b"".join(b"%s\n" % row for row in [HEADER.encode(), *[ROW.encode()] * 50, torn])
    *good, last = texts_of(tmp_path, content)
    assert (len(good), last) == (50, "encoding: a byte is not UTF-8, see data.dialect.encoding")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
QUOTED = st.text(" ,;|\t\"'\n\rax", max_size=6)
WESTERN = st.text("abcéèàüöäñç ,;'\"", max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS | QUOTED, CELLS | QUOTED, WESTERN), max_size=4),
    delimiter=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    escaped=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(ENCODINGS),
)
def test_rows_come_back_as_they_were_written_or_are_named(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, ...]],
    delimiter: str,
    quote: str,
    escaped: bool,
    quoting: Any,
    line_end: str,
    encoding: str,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "written"
    folder.mkdir(exist_ok=True)
    # One row that holds all signs settles what a file of plain words leaves open.
    table = [["p0", 'a "b", c; d\'s\te|f', "x", "y"]]
    table += [[f"p{nr}", *cells] for nr, cells in enumerate(rows, start=1)]
    # The writer leaves other line ends than its own without quotes.
    table = [[c if line_end == "\r\n" else c.replace("\r", "") for c in row] for row in table]
    if encoding == "cp1252":
        table = [
            [c if c.isascii() or set(c) <= set("abcéèàüöäñç ,;'\"") else "z" for c in row]
            for row in table
        ]
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, delimiter=delimiter, quotechar=quote, quoting=quoting, lineterminator=line_end,
        doublequote=not escaped, escapechar="\\" if escaped else None,
    )  # fmt: skip
    writer.writerows([["id", "text", "company", "licence"], *table])
    read: list[Any] = []
    with suppress(InputError):
        read = rows_of(folder, out.getvalue().encode(encoding))
    written = [dict(zip(("id", "text", "company", "licence"), row, strict=True)) for row in table]
    good = [row for row in read if not isinstance(row, Rejected)]
    assert [row for row in written if row in good] == good
    assert len(good) == len(written) or len(good) < len(read) or not read
