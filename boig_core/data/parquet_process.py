"""The process that reads Parquet files for `parquet`, with little memory of its own.

Asked by lines of standard input, each a location as JSON. It answers on standard output with a line
of JSON, null or what is wrong with the file; then, if nothing is, with a stream of Arrow whose
batches are small, and once more with such a line. Ends with its input. Leaves out: what to do about
a file that is wrong (see `parquet`).
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
from pyarrow import parquet

from boig_core.storage import store

MEMORY_MB: Final = 1024
"""What a file may take while it is unpacked, in MiB. Files as Spark, pandas and DuckDB write them
take some hundred; a page of one that was made for it takes 2 GiB, a dictionary any number."""
_ROWS: Final = 1024
_BUFFER: Final = 2**20
"""Bytes that are read of a column at a time, which else is in memory whole."""
_BATCH: Final = 32 * 2**20
"""Bytes of the batches that are sent, and so of a row."""


def main() -> None:
    """Answer until the input ends."""
    _limit_memory()
    for line in sys.stdin:
        _tell(_send(json.loads(line), sys.stdout.buffer), sys.stdout.buffer)


def _limit_memory() -> None:
    if sys.platform == "linux":  # others do not hold this limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_MB * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _send(location: str, sink: IO[bytes]) -> str | None:
    """Send a file's rows; returns what is wrong with it, None if nothing is."""
    try:
        filesystem, path = store.filesystem(location)
        with filesystem.open_input_file(path) as source:
            file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
            schema = file.schema_arrow
            _tell(None, sink)
            with pa.ipc.new_stream(sink, schema) as stream:
                for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                    for part in _parts(batch):
                        stream.write_batch(part)
    except MemoryError:
        return f"takes more than {MEMORY_MB} MiB of memory to unpack"
    except (pa.ArrowException, OSError, ValueError, OverflowError) as exc:
        return f"cannot be read ({' '.join(str(exc).split())[:300]})"
    return None


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.nbytes <= _BATCH:
        yield batch
    elif batch.num_rows == 1:
        raise ValueError(f"a row has {batch.nbytes} bytes, at most {_BATCH} are read")
    else:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half))
        yield from _parts(batch.slice(half))


def _tell(fault: str | None, sink: IO[bytes]) -> None:
    sink.write(json.dumps(fault).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    main()
