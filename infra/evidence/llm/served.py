"""A language model behind ``transformers serve`` on this machine, an OpenAI-compatible endpoint,
for as long as it is asked."""

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
_MISSING: Final = ("openai==3.57.0", "jiter==0.19.0", "distro==1.9.0", "sniffio==1.3.1")
"""What the server asks for beside boig's own dependencies."""


@contextmanager
def served(model: Path, home: Path) -> Iterator[str]:
    """The endpoint's base URL; the server ends with the block.

    Args:
        model: folder of a model, which is also its name there.
        home: of the evidence, for the server's packages and its log.

    Raises:
        EndpointError: it does not start, or something else listens at its port.
    """
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    options = ["--host", "127.0.0.1", "--port", str(PORT), "--device", "cpu", "--dtype", "float32"]
    if _answers():
        raise EndpointError(ADDRESS, "is taken: another server answers there", "end it first")
    packages, log = home / "serving", home / "serve.log"
    if not packages.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        only = ["--only-binary=:all:", "--target", str(packages)]
        subprocess.run([*pip, *only, *_MISSING], check=True)
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(packages))))
    with log.open("ab") as lines:
        server = subprocess.Popen(
            [*command, *options],
            stdout=lines,
            stderr=lines,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
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
        if _answers():
            return
        time.sleep(0.5)
    raise EndpointError(ADDRESS, "does not answer", f"see {log}")


def _answers() -> bool:
    try:
        return httpx.get(f"{ADDRESS}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
