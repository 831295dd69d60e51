"""Text of strangers acts on no terminal and forges no record, wherever it is shown."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from boig_core import cli
from boig_core.cli.show import show
from boig_core.errors import BoigError, InputError
from boig_core.escapes import visible
from boig_core.evaluation.report.terminal import print_marked
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import LineFormat
from boig_core.observability.progress import fitted, newest_lines
from boig_core.observability.tables import print_table, say
from boig_core.storage import runs, store

ROOT = Path(__file__).parents[3]
ACTING = [
    *map(chr, range(0x00, 0x09)), *map(chr, range(0x0B, 0x20)), *map(chr, range(0x7F, 0xA0)),
    *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]  # fmt: skip
ATTACKS = {
    "color": "\x1b[31mred\x1b[0m",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "one byte": "\x9b31mred",
    "overwrite": "good\rbad",
    "erase": "good\b\b\b\bbad",
    "turned around": "gpj.\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "record": "x\n12:00:00 INFO    boig_core.progress: all is well",
    "separator": "x\u202812:00:00 INFO    boig_core.progress: all is well",
    "next line": "x\x8512:00:00 INFO    boig_core.progress: all is well",
    "form feed": "x\x0c12:00:00 INFO    boig_core.progress: all is well",
    "half": "\ud83d",
    "markup": "[bold red]x[/] [link=https://evil.example]y[/link] [/nothing]",
}
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(ACTING), st.sampled_from("\n\t\ud800")))
RECORD = re.compile(r"^\d\d:\d\d:\d\d [A-Z]+ +\S+: ")


def acts(text: str) -> bool:
    return any(sign in text for sign in ACTING) or any(0xD800 <= ord(c) < 0xE000 for c in text)


@given(TEXTS)
def test_nothing_acts_and_what_does_not_act_is_unchanged(text: str) -> None:
    shown = visible(text)
    assert not acts(shown)
    assert visible(shown) == shown
    assert acts(text) or shown == text
    kept = [sign for sign in text if not acts(sign)]
    assert [sign for sign in visible("".join(kept))] == kept
    assert shown.count("\n") == text.count("\n")


def test_what_acts_is_written_out() -> None:
    assert visible("\x1b[31m \x9b \u202e \x00\t\n") == r"\x1b[31m \x9b \u202e \x00" + "\t\n"
    for plain in ("日本語 ✓ — مرحبا", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "C:\\x1b", "a\u200eb"):
        assert visible(plain) == plain


@given(TEXTS, st.booleans())
def test_a_record_is_one_record_whatever_its_message(message: str, failed: bool) -> None:
    try:
        raise ValueError(message)
    except ValueError as exc:
        error = (type(exc), exc, exc.__traceback__)
    record = logging.LogRecord(
        "boig_core.progress", logging.INFO, "x.py", 1, "post %s", (message,), error if failed else None
    )  # fmt: skip
    text = LineFormat().format(record)
    assert not acts(text)
    first, *rest = text.splitlines()
    assert RECORD.match(first)
    assert all(line.startswith("    ") for line in rest)
    assert len(newest_lines(text)) == 1


def kept_log(text: str) -> str:
    chunks: list[bytes] = []
    log = KeptLog(lambda number, chunk: chunks.append(chunk), every_s=3600)
    log.emit(logging.LogRecord("boig_core", logging.WARNING, "x.py", 1, text, None, None))
    log.write()
    return b"".join(chunks).decode()


def read_log(text: str, folder: Path) -> str:
    """As somebody else may have written it."""
    store.write_bytes(f"{folder}/attempt-1/log/000001.txt", text.encode(errors="replace"))
    return "".join(chunk for _, chunk in runs.read_log(f"{folder}/attempt-1"))


def printed(act: Callable[[Console], None], color: bool = False) -> str:
    file = io.StringIO()
    act(Console(file=file, width=200, force_terminal=color, color_system=None))
    return file.getvalue()


SURFACES: dict[str, Callable[[str], str]] = {
    "an error": lambda text: str(BoigError(text, text, text)),
    "a kept log": kept_log,
    "a title": lambda text: printed(lambda c: print_table(c, text, ("a", "b"), {"x": ["1"]})),
    "a row": lambda text: printed(lambda c: print_table(c, "t", ("a", "b"), {text: ["1"]})),
    "a cell": lambda text: printed(lambda c: print_table(c, "t", ("a", "b"), {"x": [text]})),
    "a reason": lambda text: printed(
        lambda c: print_table(c, "t", ("a", "b"), {"x": [None], "y": ["1"]}, {"x": text})
    ),
    "a sentence": lambda text: printed(lambda c: say(c, text)),
    "a mark": lambda text: printed(lambda c: print_marked(c, "✓", "green", text)),
    "progress": lambda text: fitted(text, 200),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("surface", SURFACES)
def test_no_surface_lets_a_text_act(surface: str, attack: str) -> None:
    shown = SURFACES[surface](ATTACKS[attack])
    assert not acts(shown)
    if attack == "markup" and surface != "a kept log":
        assert "[bold red]" in shown, "it is text"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_log_of_another_writer_acts_no_more_than_ours(attack: str, tmp_path: Path) -> None:
    shown = read_log(f"12:00:00 INFO    boig_core: {ATTACKS[attack]}\n", tmp_path)
    assert not acts(shown)
    assert shown.splitlines() == shown.rstrip("\n").split("\n")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_command_shows_text_and_hides_secrets(
    attack: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(ATTACKS[attack])
    assert not acts(capsys.readouterr().out)

    def failing() -> None:
        raise InputError(ATTACKS[attack], "holds planted-value-1", "mend it")

    monkeypatch.setenv("SOME_API_KEY", "planted-value-1")
    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().err
    assert not acts(shown)
    assert "planted-value-1" not in shown


def test_commands_print_nothing_but_json_around_it() -> None:
    """A new command that prints by itself is caught here: `boig_core.cli.show` does it."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "boig_core" / "cli").glob("*.py")
        if path.name not in {"show.py", "__init__.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "typer.echo", "sys.stdout.write"}
        and not (
            len(node.args) == 1
            and isinstance(node.args[0], ast.Call)
            and ast.unparse(node.args[0].func) == "json.dumps"
        )
    ]
    assert bare == []
    assert json.dumps("\x1b\u202e") == r'"\u001b\u202e"', "JSON shows nothing that acts"
