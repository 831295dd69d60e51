"""Opening a model by somebody else's library: whatever that raises becomes one clear error.

transformers, diffusers, peft and safetensors raise what comes to hand, from OSError to
AttributeError, on a model that they cannot open. The same model fails again, so all of it is the
user's error, but for what the machine or the network did. Leaves out: what can be told of a folder
before a library opens it (see `files`). Imports neither torch nor one of those libraries.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from boig_core.errors import BoigError, EndpointError, InfrastructureError, InputError

_OF_THE_DISK: Final = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
_OF_THE_MACHINE: Final = {"OutOfMemoryError", "AcceleratorError"}
_OF_HTTP: Final = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
_OFFLINE: Final = (
    "is no folder here, is not in the hub's cache, and the network is off (HF_HUB_OFFLINE)",
    "download it first, or give a folder",
)
_BY_NAME: Final = {
    "OfflineModeIsEnabled": _OFFLINE,
    # Where the network is on, it comes from the error of the network, which is asked for first.
    "LocalEntryNotFoundError": _OFFLINE,
    "GatedRepoError": (
        "is gated, and the hub lets nobody read it without leave",
        "accept its terms on its page, and set HF_TOKEN to a token of that account",
    ),
    "RepositoryNotFoundError": (
        "is no folder here, and no model that the hub shows to this account",
        "correct the name, or set HF_TOKEN where the model is private",
    ),
    "HFValidationError": (
        "is no folder here, and no name that a model of the hub can have",
        "correct the path",
    ),
}
"""What some errors of the hub's library say to a user, by their class: the rule and the remedy."""


@contextmanager
def opening(value: str, rule: str, remedy: str) -> Iterator[None]:
    """Around the call that opens a model: its error leaves as one line.

    Errors of boig pass as they are, and so does a lack of memory, which is neither the model's
    fault nor the cluster's.

    Args:
        value: what names the model, such as ``sd.base = my/model``.
        rule: what it does not do, such as ``does not open as Stable Diffusion``; what the library
            says of it follows in brackets.
        remedy: what to give in its place.

    Raises:
        InputError: the model does not open.
        EndpointError: the hub does not answer.
        InfrastructureError: the machine's disk fails or is full.
    """
    try:
        yield
    except (BoigError, MemoryError):
        raise
    except Exception as exc:
        chain = list(_chain(exc))
        if any(_is_out_of_memory(link) for link in chain):
            raise
        for link in chain:
            if cause := _outside(link, value):
                raise cause from exc
        for link in chain:
            for name in (base.__name__ for base in type(link).__mro__):
                if name in _BY_NAME:
                    raise InputError(value, *_BY_NAME[name]) from exc
        raise InputError(value, f"{rule} ({reason_of(exc)})", remedy) from exc


def check_whole(report: Mapping[str, Any], value: str, unused: str | None = None) -> None:
    """Whether a checkpoint held all weights of the model that was opened from it: transformers
    draws those that are missing by chance, and only warns.

    Args:
        report: what ``from_pretrained(..., output_loading_info=True)`` says beside the model.
        value: what names the model, for the message.
        unused: part of the names of weights that nothing asks for.

    Raises:
        InputError: some are missing.
    """
    missing = [name for name in report["missing_keys"] if unused is None or unused not in name]
    if missing:
        raise InputError(
            value,
            f"lacks {len(missing)} of its weights, {min(missing)} among them",
            "give a whole checkpoint of a model of this kind",
        )


def reason_of(exc: BaseException) -> str:
    """What an error says, in one line of at most 200 characters; its class where it says nothing,
    or a bare key."""
    said = " ".join(str(exc).split())
    kind = type(exc).__name__
    if not said or isinstance(exc, (KeyError, AttributeError, TypeError, IndexError)):
        said = f"{kind}: {said}" if said else kind
    return said if len(said) <= 200 else f"{said[:197]}..."


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the last first."""
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_out_of_memory(exc: BaseException) -> bool:
    # By name, since torch is not imported here; on the CPU it has no class of its own for this.
    return (
        isinstance(exc, MemoryError)
        or type(exc).__name__ in _OF_THE_MACHINE
        or (isinstance(exc, RuntimeError) and "allocate memory" in str(exc))
    )


def _outside(exc: BaseException, value: str) -> InfrastructureError | None:
    """The infrastructure error that a library's error stands for, if it does."""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    away = EndpointError(
        value,
        f"the hub does not answer ({reason_of(exc)})",
        "bring the network or the hub back, or give a folder",
    )
    if isinstance(status, int):
        # Refusals, such as 401, 403 and 404, will be repeated; these may not be.
        return away if status >= 500 or status in (408, 429) else None
    if type(exc).__name__ == "OfflineModeIsEnabled":
        return None
    by_http = type(exc).__module__.partition(".")[0] in _OF_HTTP
    if by_http or isinstance(exc, (ConnectionError, TimeoutError)):
        return away
    # Libraries in Rust raise errors of their own, which hold the system's words.
    if any(
        getattr(exc, "errno", None) == code or os.strerror(code) in str(exc)
        for code in _OF_THE_DISK
    ):
        return InfrastructureError(
            value,
            f"cannot be read or fetched on this machine ({reason_of(exc)})",
            "mend or empty its disk, and start again",
        )
    return None
