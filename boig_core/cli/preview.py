"""``boig ingest --preview``: what an export would come to, shown for a person, and the recipe that
saves what would be lost.

Leaves out: reading and trying (`boig_core.data.preview`, `boig_core.data.suggestions`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from boig_core.cli.show import show
from boig_core.escapes import visible
from boig_core.observability.tables import broken

if TYPE_CHECKING:
    from boig_core.config import Data
    from boig_core.data.preview import ExportReading, Outlook, Problem, TriedImages
    from boig_core.data.reading.dialects import FileDialect
    from boig_core.data.suggestions import Suggestion

_FAILURES = 3
"""Images that could not be read, of which so many are shown."""


@dataclass(frozen=True)
class Preview:
    """What is known of an export.

    Attributes:
        export: how it was read.
        data: rules with the suggested lines.
        before: what becomes of it under the recipe as it is.
        lines: that are suggested.
        after: what becomes of it with them.
        images: that were tried.
    """

    export: ExportReading
    data: Data
    before: Outlook
    lines: Sequence[Suggestion]
    after: Outlook
    images: TriedImages


def preview_export(
    location: str,
    recipe: str,
    overrides: Sequence[str],
    store: str,
    write: Path | None,
    as_json: bool,
) -> None:
    """Look at an export under a recipe, print what would become of it, and write the recipe that
    saves what would be lost.

    Args:
        location: of the posts.
        recipe: name or path.
        overrides: ``section.field=value`` settings.
        store: root of the store that an ingestion would write to; nothing is written there.
        write: file for the recipe; None: it is not written.
        as_json: print JSON.

    Raises:
        InputError: no posts, or ``write`` exists.
        RecipeError: the recipe is wrong.
        PolicyError: it asks for more than this installation allows.
    """
    from boig_core.cli.preview_recipe import overwrites, write_recipe
    from boig_core.config import load_policy, load_recipe
    from boig_core.data.reading.opening import keep_downloads

    if write is not None and write.exists():
        raise overwrites(write)
    resolved, policy = load_recipe(recipe, overrides), load_policy()
    # An ingestion would be refused, too.
    policy.require(resolved, store)
    # It is read several times.
    with keep_downloads():
        preview = _look(location, resolved.data, resolved.seed, policy.images)
    if write is not None:
        write_recipe(write, location, recipe, overrides, preview.data, preview.lines)
    if as_json:
        print(json.dumps(_as_json(preview)))
        return
    show("\n".join(preview_lines(preview)))
    show("\n".join(_next_steps(location, recipe, write, preview.lines)))


def _look(location: str, rules: Data, seed: int, roots: Sequence[str]) -> Preview:
    from boig_core.data.preview import survey, try_images
    from boig_core.data.suggestions import Trials, suggest, with_lines

    trials = Trials(location)
    lines = suggest(trials, rules, seed)
    data = with_lines(rules, lines)
    export, after = survey(location, data, seed)
    # What the lines save, they save of the rows that they were tried on; all rows are read once.
    before = after if data == rules else trials.look(rules, seed)
    return Preview(export, data, before, lines, after, try_images(after, data, roots))


def preview_lines(preview: Preview) -> Iterator[str]:
    """What a preview says, in lines of at most 80 columns."""
    before, after, lines = preview.before, preview.after, preview.lines
    yield from _file_lines(preview.export, after)
    yield from _column_lines(preview.export, preview.data, lines)
    first = " of the first rows" if before.rows < after.rows else ""
    yield from _problem_lines(before, f"Lost{first}")
    if lines:
        yield from ("", "Lines for the recipe")
        for line in lines:
            yield from _suggestion_lines(line)
        # What was hidden behind the first fault of each row.
        if after.lost:
            yield from _problem_lines(after, "Lost even with these lines")
    yield from _outlook_lines(after, bool(lines))
    yield from _image_lines(preview.images)
    for warning in after.warnings:
        yield from broken(warning, indent=" " * 9, first="warning: ")


def _file_lines(export: ExportReading, outlook: Outlook) -> Iterator[str]:
    from boig_core.data.glance import many

    for file, dialect in export.files:
        if dialect is None:
            continue
        yield file
        settings = ", ".join(
            f"{name} {value!r}{' (settings from the file)' if name in dialect.sniffed else ''}"
            for name in ("encoding", "delimiter", "quote", "escape")
            if (value := getattr(dialect, name))
        )
        yield from broken(
            f"{dialect.kind}{', ' if settings else ''}{settings}", indent="    ", first="  "
        )
    if more := sum(dialect is None for _, dialect in export.files):
        yield f"and {many(more, 'more file')}"
    for name, way in outlook.conventions.items():
        yield from broken(f"{name}: {way}", indent="    ", first="  ")
    if outlook.mended:
        yield from broken(f"{many(outlook.mended, 'text')} mended: letters were decoded wrongly")
    part = "" if export.whole else ", the first of the export: the rest was not looked at"
    yield from broken(f"{many(outlook.rows, 'row')}{part}")


def _column_lines(export: ExportReading, data: Data, lines: Sequence[Suggestion]) -> Iterator[str]:
    from boig_core.data.suggestions import resolved

    names = _our_columns(data)
    new = {line.path[-1] for line in lines if line.path[0] == "columns"}
    rows = [(name, resolved(data, name)) for name in dict.fromkeys(names)]
    rows = [
        (name, theirs) for name, theirs in rows if theirs[:1] == "=" or theirs in export.columns
    ]
    ours, wide = (max([len(row[i]) for row in rows], default=0) for i in (0, 1))
    yield from ("", "Columns")
    for name, theirs in rows:
        values = export.columns[theirs].examples if theirs in export.columns else []
        mark = "*" if name in new else " "
        head = f" {mark}{name.ljust(ours)}  {visible(theirs).ljust(min(wide, 24))}  "
        yield from broken(", ".join(repr(value) for value in values), indent=" " * 16, first=head)
    if new:
        yield "  * by a line below"
    used = {theirs for _, theirs in rows}
    if unused := [name for name in export.columns if name not in used]:
        yield from broken(f"not used: {', '.join(unused)}", indent="    ", first="  ")


def _our_columns(data: Data) -> list[str]:
    from boig_core.config import Column

    kpis = [part for kpi in (data.kpi, *data.more_kpis) for part in (kpi, *kpi.split("/"))]
    return [*get_args(Column), *kpis]


def _problem_lines(outlook: Outlook, title: str) -> Iterator[str]:
    yield ""
    lost = f"{outlook.lost:,} of {outlook.rows:,} rows" if outlook.lost else "no row"
    yield f"{title}: {lost}"
    for problem in outlook.problems:
        yield from _examples(problem, "")
    for problem in outlook.choices:
        yield from _examples(problem, " (a choice of the recipe)")


def _examples(problem: Problem, note: str) -> Iterator[str]:
    yield f"  {problem.code}: {problem.count:,}{note}"
    for file, line, reason in problem.examples:
        yield from broken(f"{file}, line {line}: {reason}", indent=" " * 6, first=" " * 4)


def _suggestion_lines(line: Suggestion) -> Iterator[str]:
    from boig_core.cli.preview_recipe import flow

    value = "?" if line.value is None else flow(line.value)
    yield from broken(f"{line.name}: {value}", indent="    ", first="  ")
    gain = (
        f"saves {line.saves:,} of {line.of:,} {'lost ' if line.unit == 'rows' else ''}{line.unit}"
    )
    if not line.saves:
        gain = "no row is saved before all columns have names"
    yield from broken(f"{gain}; {line.why}", indent=" " * 6)


def _outlook_lines(outlook: Outlook, with_lines: bool) -> Iterator[str]:
    from boig_core.data.glance import many, percent
    from boig_core.data.summary import counted, labeled

    if not outlook.kept:
        return
    yield ""
    yield from broken(
        f"{'With these lines' if with_lines else 'To come'}: {many(outlook.kept, 'post')} of "
        f"{many(outlook.account_count, 'account')}, of {many(outlook.rows, 'row')}"
    )
    for account in outlook.accounts:
        note = ", one value only" if account.one_value else ""
        text = f"{many(account.posts, 'post')}, median {account.median:g}, {percent(account.zeros)} zero"
        yield from broken(f"{account.account}: {text}{note}", indent="      ", first="    ")
    if outlook.account_count > len(outlook.accounts):
        yield f"    and {outlook.account_count - len(outlook.accounts):,} more accounts"
    if choices := {problem.code: problem.count for problem in outlook.choices}:
        yield from labeled("left out", f"{counted(choices)} (choices of the recipe)")
    yield from labeled("buckets", counted(outlook.buckets))
    yield from labeled("splits", counted(outlook.splits))


def _image_lines(images: TriedImages) -> Iterator[str]:
    from boig_core.data.summary import labeled

    if images.tried:
        yield from labeled("images", f"{images.read} of {images.tried} that were tried can be read")
    for code, reason in images.failures[:_FAILURES]:
        yield from broken(f"{code}: {reason}", indent=" " * 8, first="      ")
    if (more := len(images.failures) - _FAILURES) > 0:
        yield f"      and {more} more"
    if images.missing:
        yield from labeled("", f"{images.missing:,} of {images.local:,} on this disk do not exist")


def _next_steps(
    location: str, recipe: str, write: Path | None, lines: Sequence[Suggestion]
) -> Iterator[str]:
    yield ""
    if write is not None:
        yield from broken(f"wrote {write}; next: boig ingest {location} --recipe {write}")
    elif lines:
        yield from broken("To write these lines into a recipe, add: --write mine.yaml")
    else:
        yield from broken(f"next: boig ingest {location} --recipe {recipe}")


def _as_json(preview: Preview) -> dict[str, Any]:
    from boig_core.data.suggestions import resolved

    export, data = preview.export, preview.data
    ours = {name: resolved(data, name) for name in _our_columns(data)}
    return {
        "files": [
            {"file": file, **(_told(dialect) if dialect else {})} for file, dialect in export.files
        ],
        "whole": export.whole,
        "columns": {
            name: {"column": theirs, "values": export.columns[theirs].examples}
            for name, theirs in ours.items()
            if theirs in export.columns
        },
        "unused": [name for name in export.columns if name not in ours.values()],
        "before": _numbers(preview.before),
        "suggestions": [{"field": line.name, **asdict(line)} for line in preview.lines],
        "after": _numbers(preview.after),
        "images": asdict(preview.images),
    }


def _told(dialect: FileDialect) -> dict[str, Any]:
    return {**asdict(dialect), "sniffed": sorted(dialect.sniffed)}


def _numbers(outlook: Outlook) -> dict[str, Any]:
    tree = asdict(outlook)
    # Only whoever fetches needs them.
    del tree["references"]
    return {**tree, "lost": outlook.lost}
