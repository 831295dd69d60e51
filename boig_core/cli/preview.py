"""``boig ingest --preview``: what an export would come to, shown for a person, and the recipe that
saves what would be lost.

Leaves out: reading and trying (`boig_core.data.preview`, `boig_core.data.suggestions`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from boig_core.cli.show import show
from boig_core.errors import InputError
from boig_core.escapes import visible
from boig_core.observability.tables import broken

if TYPE_CHECKING:
    from boig_core.config import Data
    from boig_core.data.preview import Export, Outlook, Problem, TriedImages
    from boig_core.data.suggestions import Suggestion


def preview_export(
    location: str, recipe: str, overrides: Sequence[str], write: Path | None, as_json: bool
) -> None:
    """Look at an export under a recipe, print what would become of it, and write the recipe that
    saves what would be lost.

    Raises:
        InputError: no posts, or ``write`` exists.
        RecipeError: the recipe is wrong.
    """
    from boig_core.cli.preview_recipe import overwrites, write_recipe
    from boig_core.config import load_policy, load_recipe
    from boig_core.data.preview import Outlook, survey, try_images
    from boig_core.data.suggestions import suggest, with_lines

    if write is not None and write.exists():
        raise overwrites(write)
    resolved, roots = load_recipe(recipe, overrides), load_policy().images
    lines = suggest(location, resolved.data, resolved.seed)
    data = with_lines(resolved.data, lines)
    export, after = survey(location, data, resolved.seed)
    before = after
    if data != resolved.data:
        try:
            _, before = survey(location, resolved.data, resolved.seed)
        except InputError as exc:
            before = Outlook(0, 0, error=str(exc))
    images = try_images(after, data, roots)
    if write is not None:
        write_recipe(write, location, recipe, overrides, data, lines)
    if as_json:
        print(json.dumps(_as_json(export, data, before, lines, after, images)))
        return
    show("\n".join(preview_lines(export, data, before, lines, after, images)))
    show("\n".join(_next_steps(location, recipe, write, lines)))


def preview_lines(
    export: Export,
    data: Data,
    before: Outlook,
    lines: Sequence[Suggestion],
    after: Outlook,
    images: TriedImages,
) -> Iterator[str]:
    """What a preview says, in lines of at most 80 columns.

    Args:
        export: how it was read.
        data: rules with the suggested lines.
        before: what becomes of it under the recipe as it is.
        lines: that are suggested.
        after: what becomes of it with them.
        images: that were tried.
    """
    yield from _file_lines(export, before)
    yield from _column_lines(export, data, lines)
    yield from _problem_lines(before)
    if lines:
        yield from ("", "Lines for the recipe")
        for line in lines:
            yield from _suggestion_lines(line)
    yield from _outlook_lines(after, bool(lines))
    yield from _image_lines(images)
    for warning in after.warnings:
        yield from broken(warning, indent=" " * 9, first="warning: ")


def _file_lines(export: Export, outlook: Outlook) -> Iterator[str]:
    from boig_core.data.glance import many

    for file, dialect in export.files:
        yield file
        told = ", ".join(
            f"{name} {value!r}{' (told from the file)' if name in dialect.sniffed else ''}"
            for name in ("encoding", "delimiter", "quote", "escape")
            if (value := getattr(dialect, name))
        )
        yield from broken(f"{dialect.kind}{', ' if told else ''}{told}", indent="    ", first="  ")
    part = "" if export.whole else ", the first of the export: the rest was not looked at"
    yield from broken(f"{many(outlook.rows, 'row')}{part}")


def _column_lines(export: Export, data: Data, lines: Sequence[Suggestion]) -> Iterator[str]:
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


def _problem_lines(outlook: Outlook) -> Iterator[str]:
    yield ""
    if outlook.error:
        yield from broken(outlook.error, indent="  ", first="Lost: ")
        return
    if outlook.lost:
        yield f"Lost: {outlook.lost:,} of {outlook.rows:,} rows"
    else:
        yield "Lost: no row"
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
    yield from labeled("buckets", counted(outlook.buckets))
    yield from labeled("splits", counted(outlook.splits))


def _image_lines(images: TriedImages) -> Iterator[str]:
    from boig_core.data.summary import labeled

    if images.tried:
        yield from labeled("images", f"{images.read} of {images.tried} that were tried can be read")
    for code, reason in images.failures:
        yield from broken(f"{code}: {reason}", indent=" " * 8, first="      ")
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


def _as_json(
    export: Export,
    data: Data,
    before: Outlook,
    lines: Sequence[Suggestion],
    after: Outlook,
    images: TriedImages,
) -> dict[str, Any]:
    from boig_core.data.suggestions import resolved

    ours = {name: resolved(data, name) for name in _our_columns(data)}
    return {
        "files": [
            {"file": file, **asdict(dialect), "sniffed": sorted(dialect.sniffed)}
            for file, dialect in export.files
        ],
        "whole": export.whole,
        "columns": {
            name: {"column": theirs, "values": export.columns[theirs].examples}
            for name, theirs in ours.items()
            if theirs in export.columns
        },
        "unused": [name for name in export.columns if name not in ours.values()],
        "before": _numbers(before),
        "suggestions": [{"field": line.name, **asdict(line)} for line in lines],
        "after": _numbers(after),
        "images": asdict(images),
    }


def _numbers(outlook: Outlook) -> dict[str, Any]:
    tree = asdict(outlook)
    # Only whoever fetches needs them.
    del tree["references"]
    return {**tree, "lost": outlook.lost}
