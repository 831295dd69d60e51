"""What was measured, as files that say how: ``results/NAME.json`` with commit, machine, command and
date, and the tables of README and docs that are made from them.

A file with ``origin`` "README of 0.1" holds a table as it was published before results were kept;
the next run of its command takes its place.

    python -m infra.evidence.published [--check]

writes the tables into the pages, each between its marker ``<!-- results: NAME -->`` and the next
empty line; with ``--check`` it changes nothing and ends with 1 where one differs. Leaves out:
measuring.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from boig_core.errors import InputError

REPOSITORY: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = Path(__file__).resolve().parent / "results"
MARKER: Final = re.compile(r"<!-- results: (\w+) -->\n(.*?\n)(?=\n)", re.DOTALL)


class PublishedTable(BaseModel):
    """A table as readers see it: each cell is text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Its lines, the last one ended."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


class PublishedResult(BaseModel):
    """One file of ``results``.

    Attributes:
        origin: where the numbers come from.
        commit: of the code that was run; null: not recorded.
        machine: what it ran on.
        command: repeats it, exactly, from the repository's root.
        date: of the run's end, UTC; null: not recorded.
        numbers: what the command measured; null where only the table was kept.
        table: what is published of them; null: nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    origin: Literal["measured", "README of 0.1"]
    commit: str | None
    machine: str
    command: str
    date: str | None
    numbers: Any = None
    table: PublishedTable | None = None


def save(file: Path, numbers: Any, table: PublishedTable | None = None) -> None:
    """Write a result of the script that is running, with all that says how to repeat it.

    Args:
        file: what ``--json`` names.
        numbers: JSON values.
        table: what is to be published.
    """
    # With ``python -m`` the module's own name stands in its spec alone: ``__name__`` is then
    # ``__main__``.
    main = sys.modules["__main__"]
    module = main.__spec__.name if main.__spec__ else Path(sys.argv[0]).name
    result = PublishedResult(
        origin="measured",
        commit=checked_out(),
        machine=_machine(),
        command=f"python -m {module} {shlex.join(sys.argv[1:])}".rstrip(),
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        numbers=numbers,
        table=table,
    )
    file.write_text(result.model_dump_json(indent=1) + "\n", "utf-8")


def read(name: str) -> PublishedResult:
    """A result that the repository holds.

    Raises:
        InputError: there is none of this name.
    """
    file = RESULTS / f"{name}.json"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in RESULTS.glob("*.json")))
        raise InputError(
            f"results: {name}", "is no file of infra/evidence/results", f"use one of {known}"
        )
    return PublishedResult.model_validate_json(file.read_text("utf-8"))


def with_tables(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        InputError: a marker names no result, or one without a table.
    """

    def made(match: re.Match[str]) -> str:
        table = read(match[1]).table
        if table is None:
            raise InputError(f"results: {match[1]}", "has no table", "remove its marker")
        return f"<!-- results: {match[1]} -->\n{table.markdown()}"

    return MARKER.sub(made, text)


def main() -> int:
    """Write the pages' tables, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1: a table differs")
    args = parser.parse_args()
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    texts = {page: page.read_text("utf-8") for page in pages}
    differing = {page: new for page, text in texts.items() if (new := with_tables(text)) != text}
    for page, new in differing.items():
        if args.check:
            print(f"{page.relative_to(REPOSITORY)}: a table differs from infra/evidence/results")
        else:
            page.write_text(new, "utf-8")
    return 1 if args.check and differing else 0


def checked_out() -> str | None:
    """The commit that is checked out, with a plus sign where files differ from it."""
    asked = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        # A result without its commit is better than none after hours of measuring.
        return None


def _machine() -> str:
    """Cores, processor, memory, system."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {platform.system()}"


if __name__ == "__main__":
    sys.exit(main())
