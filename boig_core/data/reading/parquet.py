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


def read_parquet(location: str) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Rows of a file, None for one that is too large, and the characters of each as JSON.

    Args:
        location: a local path or ``s3://``.

    Raises:
        UnreadableParquetError: the file is torn or no Parquet, or needs too much memory.
    """
    process = _idle.pop() if _idle else _start()
    source, sink = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stdin)
    finished = False
    try:
        sink.write(json.dumps(location).encode() + b"\n")
        sink.flush()
        while (line := source.readline()).endswith(b"\n"):
            answer = json.loads(line)
            if isinstance(answer, dict):
                yield answer, len(line)
            elif isinstance(answer, int):
                yield None, answer
            else:
                finished = True
                if answer is not None:
                    raise UnreadableParquetError(answer)
                return
        raise UnreadableParquetError(_CRASHED)
    except BrokenPipeError as exc:
        raise UnreadableParquetError(_CRASHED) from exc
    finally:
        # Who stops in the middle leaves rows in the pipe.
        if finished:
            _idle.append(process)
        else:
            process.kill()
            process.communicate()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "boig_core.data.reading.parquet_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | _PLAIN_MEMORY,
    )
