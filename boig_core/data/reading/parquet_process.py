"""The process that reads Parquet files for `parquet`, with little memory of its own.

Asked by lines of standard input, each a location as JSON. It answers with lines of JSON on standard
output: an object for each row, a number in place of a row that is too large, and at the end null,
or what is wrong with the file as a text. Ends with its input. Leaves out: what to do about a file
that is wrong (see `parquet`).
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyarrow import ArrowException, parquet

from boig_core.data.cells.values import plain
from boig_core.data.reading.parquet_cells import leaves_to_read, rows_of_batch
from boig_core.storage import store

MEMORY_MB: Final = 1024
"""What a file may take while it is unpacked, in MiB. Files as Spark, pandas and DuckDB write them
take some hundred; a page of one that was made for it takes 2 GiB, a dictionary any number."""
LARGEST_ROW: Final = 16 * 2**20
"""Characters of a row as JSON."""
_ROWS: Final = 256
"""Rows that are unpacked at a time."""
_BUFFER: Final = 2**20
"""Bytes that are read of a column at a time, which else is in memory whole."""


def main() -> None:
    """Answer until the input ends."""
    _limit_memory()
    for line in sys.stdin:
        for answer in _answers(json.loads(line)):
            sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    if sys.platform == "linux":  # others do not hold this limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_MB * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answers(location: str) -> Iterator[str]:
    try:
        filesystem, path = store.filesystem(location)
        with filesystem.open_input_file(path) as source:
            file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
            leaves, embedded = leaves_to_read(file)
            # All is what no list of columns means: a file may have rows and no column.
            columns = leaves if embedded else None
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
                # Only here does a dictionary, or a list of them, take all the room that it stands
                # for. Times and the like become texts, as `posts` keeps them.
                for row in rows_of_batch(batch, embedded):
                    text = json.dumps(row, default=plain)
                    yield text if len(text) <= LARGEST_ROW else str(len(text))
    except MemoryError:
        yield json.dumps(f"takes more than {MEMORY_MB} MiB of memory to unpack")
    except (ArrowException, OSError, ValueError, OverflowError) as exc:
        yield json.dumps(f"cannot be read ({' '.join(str(exc).split())[:300]})")
    else:
        yield "null"


if __name__ == "__main__":
    main()
