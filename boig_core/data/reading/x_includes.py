"""What the pages of an X API export include, for posts whose own page lacks it.

The API repeats an author and media on each page that needs them, but an export may be saved without
the repetitions. So the first miss reads all pages of the export once, into a database on this
machine's disk: memory stays flat, and an export that needs no lookup is read once. Leaves out: what
a page is (see `x_api`).
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from boig_core.data.reading.x_api import Kind, items_of
from boig_core.errors import InfrastructureError


class SharedIncludes:
    """Users and media of all pages of an export; a lookup of `x_api.rows_of`.

    Args:
        pages: reads all pages of the export from their start.
    """

    def __init__(self, pages: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._pages = pages
        self._table: sqlite3.Connection | None = None

    def __call__(self, kind: Kind, key: str) -> Mapping[str, Any]:
        """The item of a key; empty: no page includes it.

        Raises:
            InfrastructureError: the disk cannot hold them.
        """
        try:
            self._table = self._table or self._read()
            row = self._table.execute(
                "SELECT fields FROM item WHERE kind = ? AND key = ?", (kind, _storable(key))
            ).fetchone()
        except sqlite3.Error as exc:
            raise InfrastructureError(
                tempfile.gettempdir(),
                f"cannot hold what the pages include ({exc})",
                "free space there, or set TMPDIR",
            ) from exc
        fields: Mapping[str, Any] = json.loads(row[0]) if row else {}
        return fields

    def _read(self) -> sqlite3.Connection:
        # Without a name: a file of its own that ends with the connection.
        table = sqlite3.connect("")
        table.execute(
            "CREATE TABLE item (kind, key, fields, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        table.executemany(
            "INSERT OR IGNORE INTO item VALUES (?, ?, ?)",
            (
                (kind, _storable(key), json.dumps(fields))
                for page in self._pages()
                for kind, key, fields in items_of(page)
            ),
        )
        return table


def _storable(key: str) -> str:
    return key.encode(errors="replace").decode()
