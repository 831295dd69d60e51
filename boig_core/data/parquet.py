"""Rows of a Parquet file, unpacked by a process apart whose memory is limited.

What a file unpacks to stands nowhere that can be trusted: pages and dictionaries of a small one can
take any amount of memory, and a torn one may crash its decoder. One process serves all files, since
its start takes half a second. Leaves out: the process itself (see `parquet_process`), and where
files come from (see `opening`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, Final, cast

_idle: list[subprocess.Popen[bytes]] = []
_PLAIN_MEMORY: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
"""Other allocators take addresses by the gigabyte in advance, all of which would count."""
_CRASHED: Final = "ends the process that unpacks it: it is torn, or takes too much memory"


class UnreadableParquetError(ValueError):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


def read_parquet(location: str) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows of a file, batch by batch, and the bytes of each batch.

    Args:
        location: a local path or ``s3://``.

    Raises:
        UnreadableParquetError: the file is torn or no Parquet, or needs too much memory.
    """
    import pyarrow as pa

    process = _idle.pop() if _idle else _start()
    source, sink = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stdin)
    finished = False
    try:
        sink.write(json.dumps(location).encode() + b"\n")
        sink.flush()
        fault = json.loads(source.readline() or json.dumps(_CRASHED))
        if fault is None:
            for batch in pa.ipc.open_stream(source):
                yield batch.to_pylist(), batch.nbytes
            fault = json.loads(source.readline() or json.dumps(_CRASHED))
        if fault is not None:
            finished = fault != _CRASHED
            raise UnreadableParquetError(fault)
        finished = True
    except (BrokenPipeError, pa.ArrowException, OSError) as exc:
        raise UnreadableParquetError(_CRASHED) from exc
    finally:
        # Who stops in the middle leaves rows in the pipe.
        if finished:
            _idle.append(process)
        else:
            process.kill()
            process.wait()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "boig_core.data.parquet_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | _PLAIN_MEMORY,
    )
