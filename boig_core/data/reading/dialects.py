"""What a posts file is found to be: its kind, its encoding, how its cells are set apart.

Leaves out: finding it out (see `sources.describe_file`, `csv_dialect`, `text_encoding`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FileKind = Literal["jsonl", "json", "csv", "parquet", "x_api"]
"""What a file holds; ``x_api``: pages of the X API v2, as JSON."""


@dataclass(frozen=True)
class FileDialect:
    """How a file is read.

    Attributes:
        kind: what it holds.
        encoding: Python's name of it; None: Parquet, which has none.
        delimiter: sign between the cells of CSV; None: another kind of file.
        quote: sign around cells of CSV; empty: none is quoted.
        escape: sign that makes a quote or delimiter of CSV an ordinary one; empty: quotes are
            written twice.
        columns: names as the file has them, of JSON those of its first rows, of X API pages those
            of the rows that they become.
        sniffed: settings among ``encoding``, ``delimiter``, ``quote`` and ``escape`` that were told
            from the file; the others were given by the recipe or need no telling.
    """

    kind: FileKind
    encoding: str | None
    delimiter: str | None
    quote: str | None
    escape: str | None
    columns: tuple[str, ...]
    sniffed: frozenset[str]
