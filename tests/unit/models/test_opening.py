"""Whatever a library raises while it opens a model is one clear error of the right kind."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from boig_core.errors import (
    BoigError,
    EndpointError,
    InfrastructureError,
    InputError,
    StoreUnavailableError,
)
from boig_core.models.opening import opening


def open_with(exc: BaseException) -> None:
    with opening("llm.base = 'a/b'", "does not open", "give another"):
        raise exc


def answered(status: int, build: type[hub.HfHubHTTPError] = hub.HfHubHTTPError) -> Exception:
    request = httpx2.Request("GET", "https://hub/a/b")
    return build(f"{status} of the hub", response=httpx2.Response(status, request=request))


def behind(cause: BaseException) -> Exception:
    """As transformers wraps what the hub's library raises."""
    error = OSError("We couldn't connect\nto the hub")
    error.__cause__ = cause
    return error


BROKEN = [
    OSError("no file named model.safetensors"),
    ValueError("Unrecognized model"),
    KeyError("model.embed"),
    TypeError("expected str, got NoneType"),
    AttributeError("no attribute 'shape'"),
    IndexError("list index out of range"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    NotImplementedError(),
    RuntimeError("size mismatch for lm_head"),
    ImportError("needs the package compressed_tensors"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    SafetensorError("header too large"),
    pickle.UnpicklingError("weights only"),
    EOFError("ran out of input"),
    RecursionError("maximum recursion depth exceeded"),
    Exception("untagged enum of tokenizers"),
    hub.OfflineModeIsEnabled("offline"),
    answered(401, hub.GatedRepoError),
    answered(403),
    answered(404, hub.RepositoryNotFoundError),
    PermissionError(errno.EACCES, "Permission denied"),
]
AWAY = [
    answered(500),
    answered(503),
    answered(429),
    httpx2.ConnectError("name resolution"),
    httpx2.ReadTimeout("timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("timed out"),
]


def words(exc: object) -> str:
    return f"{type(exc).__name__} {exc}"


@pytest.mark.parametrize("wrap", [lambda exc: exc, behind], ids=["bare", "wrapped"])
@pytest.mark.parametrize("exc", BROKEN, ids=words)
def test_a_model_that_does_not_open_is_the_users(
    exc: Exception, wrap: Callable[[BaseException], Exception]
) -> None:
    with pytest.raises(InputError) as caught:
        open_with(wrap(exc))
    message = str(caught.value)
    assert message.startswith("llm.base = 'a/b': ")
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("wrap", [lambda exc: exc, behind], ids=["bare", "wrapped"])
@pytest.mark.parametrize("exc", AWAY, ids=words)
def test_a_hub_that_is_away_is_worth_another_attempt(
    exc: Exception, wrap: Callable[[BaseException], Exception]
) -> None:
    with pytest.raises(EndpointError, match=r"the hub does not answer"):
        open_with(wrap(exc))


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        SafetensorError("Error while serializing: No space left on device (os error 28)"),
        RuntimeError("Data processing error: Too many open files (os error 24)"),
    ],
    ids=words,
)
def test_a_full_or_failing_disk_is_the_machines(exc: Exception) -> None:
    with pytest.raises(InfrastructureError, match="mend or empty its disk"):
        open_with(behind(exc))


@pytest.mark.parametrize(
    "exc",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        KeyboardInterrupt(),
    ],
    ids=words,
)
def test_a_lack_of_memory_is_neither(exc: BaseException) -> None:
    with pytest.raises(type(exc)) as caught:
        open_with(exc)
    assert caught.value is exc


@pytest.mark.parametrize(
    "exc", [InputError("a", "b", "c"), StoreUnavailableError("a", "b", "c")], ids=words
)
def test_an_error_of_boig_passes(exc: BoigError) -> None:
    with pytest.raises(BoigError) as caught:
        open_with(exc)
    assert caught.value is exc


@pytest.mark.parametrize("build", [AutoConfig, AutoTokenizer])
def test_a_model_of_the_hub_without_the_network_says_so(
    build: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with (
        pytest.raises(InputError, match="the network is off"),
        opening("nobody/knows-this", "does not open", "give another"),
    ):
        build.from_pretrained(  # type: ignore[attr-defined]
            "nobody/knows-this", cache_dir=tmp_path, trust_remote_code=False
        )
