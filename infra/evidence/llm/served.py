"""A language model behind ``transformers serve`` on this machine, an OpenAI-compatible endpoint, for
as long as it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from boig_core.errors import EndpointError

PORT: Final = 8137
ADDRESS: Final = f"http://127.0.0.1:{PORT}"
_LONGEST_START_S: Final = 900.0


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The endpoint's base URL; the server ends with the block.

    Args:
        model: folder of a model, which is also its name there.
        log: file that the server's lines are added to.

    Raises:
        EndpointError: it does not start, or something else listens at its port.
    """
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    options = ["--host", "127.0.0.1", "--port", str(PORT), "--device", "cpu", "--dtype", "float32"]
    with log.open("ab") as lines:
        server = subprocess.Popen(
            [*command, *options],
            stdout=lines,
            stderr=lines,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait_for(server, log)
            yield f"{ADDRESS}/v1"
        finally:
            server.terminate()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], log: Path) -> None:
    latest = time.monotonic() + _LONGEST_START_S
    while time.monotonic() < latest and server.poll() is None:
        try:
            if httpx.get(f"{ADDRESS}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise EndpointError(ADDRESS, "does not answer", f"see {log}")
