"""A house that people can read: files of 400 lines at most, functions of 60, no class name twice,
few lines beyond 100 columns."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("boig_core", "ray_jobs", "dags", "infra", "tests")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def nodes(kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[Path, ast.AST]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, kinds):
                yield file.relative_to(ROOT), node


def test_files_and_functions_are_short() -> None:
    lines = {file: len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert len(FILES) > 300
    assert [str(file) for file, count in lines.items() if count > 400] == []
    functions = nodes((ast.FunctionDef, ast.AsyncFunctionDef))
    long = [
        f"{file}: {node.name}"
        for file, node in functions
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert long == []


def test_a_class_name_means_one_thing() -> None:
    names = Counter(
        node.name
        for file, node in nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef) and file.parts[0] != "tests"
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_lines_are_of_a_page_s_width() -> None:
    lines = [line for file in FILES for line in file.read_text("utf-8").splitlines()]
    assert sum(len(line) > 100 for line in lines) < 0.02 * len(lines)
