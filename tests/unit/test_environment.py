"""Every environment variable of boig stands in one list, and nothing reads one beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core import environment
from boig_core.environment import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
NAMES = {variable.name for variable in VARIABLES}
NAME = re.compile(r"\bBOIG_[A-Z0-9_]+\b")
RUNTIME = [
    *(path for room in ("boig_core", "dags", "ray_jobs") for path in (ROOT / room).rglob("*.py")),
]
SETTINGS = [
    ROOT / "docker-compose.yml",
    *(ROOT / "infra").rglob("*.sh"),
    *(ROOT / "infra").rglob("*.y*ml"),
    *(ROOT / "infra").rglob("*.Dockerfile"),
]


def _strings(path: Path) -> Iterator[str]:
    """What a file's code holds as strings: messages and names, not its docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings:
            yield text


def test_names_are_spelled_in_the_list_alone() -> None:
    spelled = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in RUNTIME
        if path != Path(environment.__file__)
        for text in _strings(path)
        if NAME.fullmatch(text)
    }
    assert spelled == set()


@pytest.mark.parametrize("path", [*RUNTIME, *SETTINGS], ids=lambda path: path.name)
def test_a_name_that_is_mentioned_is_in_the_list(path: Path) -> None:
    assert set(NAME.findall(path.read_text("utf-8"))) <= NAMES


def test_each_variable_is_read_somewhere() -> None:
    code = "\n".join(path.read_text("utf-8") for path in [*RUNTIME, *SETTINGS])
    code += (ROOT / "tests" / "conftest.py").read_text("utf-8")
    constants = {
        variable.name: constant
        for constant, variable in vars(environment).items()
        if isinstance(variable, environment.Variable)
    }
    unread = [
        name
        for name, constant in constants.items()
        if f"environment.{constant}.read()" not in code and f"${{{name}" not in code
    ]
    assert unread == []


def test_spaces_and_nothing_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOIG_STORE", raising=False)
    assert environment.STORE.read() is None
    monkeypatch.setenv("BOIG_STORE", "  ")
    assert environment.STORE.read() is None
    monkeypatch.setenv("BOIG_STORE", " s3://bucket/prefix\n")
    assert environment.STORE.read() == "s3://bucket/prefix"
