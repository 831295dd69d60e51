"""The S3 side of the store: clients that outlive calls, and what a server's refusals mean.

Control (conditional put, heads, read after write) goes through boto3. Credentials come from the
standard AWS variables or the instance's role; nothing of them passes through here. Leaves out: what
is read and written (see `store`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from boig_core.errors import (
    BoigError,
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from boig_core.storage.paths import printable

if TYPE_CHECKING:
    from pyarrow import fs as pafs

T = TypeVar("T")
# Codes of S3, and bare statuses: the answer to a HEAD has no body, so its status stands in for the
# code.
_DENIED = {
    "403",
    "AccessDenied",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
}
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}


class TakenError(BoigError):
    """A conditional put found the key taken."""


class ConflictError(StoreUnavailableError):
    """A put met another writer of the same key; S3 asks to try again."""


def call(uri: str, request: Callable[[], T]) -> T:
    """Result of a request to S3, whose errors become those of the store.

    Args:
        uri: what the request is about; stands in the errors.
        request: calls a method of `client`.

    Raises:
        TakenError: a conditional put found the key taken.
        ConflictError: another writer is at the same key.
        NotFoundInStoreError: no such bucket or key, or no address of S3.
        StorePermissionError: no credentials, or they do not suffice.
        StoreUnavailableError: no answer, or one that makes no sense.
    """
    # Imported late, since a process that uses no S3 has to start fast; under the lock, since
    # threads that import boto3 at the same time meet it half-made.
    with _clients_lock:
        from boto3.exceptions import Boto3Error, S3UploadFailedError
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
        )

    try:
        return request()
    except ClientError as exc:
        raise _error(uri, exc.response) from exc
    except S3UploadFailedError as exc:
        # boto3 raises this one without `from`: the server's answer is in the context alone.
        cause = exc.__context__
        raise (
            _error(uri, cause.response) if isinstance(cause, ClientError) else _away(uri, exc)
        ) from exc
    except NoCredentialsError as exc:
        raise StorePermissionError(
            uri,
            "no AWS credentials were found",
            "set the standard AWS variables or an instance role",
        ) from exc
    except ParamValidationError as exc:  # before any request: nothing can be stored there
        # The second line names the mistake, and behind it a regular expression or limits that tell
        # the reader nothing.
        first = str(exc).partition("\n")[2].partition("\n")[0]
        rule = re.split(r": |, value", first)[0] or "is no address of S3"
        raise NotFoundInStoreError(uri, rule, "write s3://BUCKET/KEY") from exc
    except UnicodeEncodeError as exc:  # a surrogate, which no key holds
        raise NotFoundInStoreError(
            printable(uri), "is no address of S3", "write s3://BUCKET/KEY"
        ) from exc
    except (BotoCoreError, Boto3Error) as exc:
        raise _away(uri, exc) from exc


def objects(uri: str, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Each object below a prefix as the server lists it, a page at a time.

    Raises:
        NotFoundInStoreError, StorePermissionError, StoreUnavailableError: as `call`.
    """
    place = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = call(uri, lambda: client().list_objects_v2(**place))
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        place["ContinuationToken"] = page["NextContinuationToken"]


def children(uri: str, bucket: str, prefix: str) -> Iterator[str]:
    """Names right below a prefix, those of folders with a slash at their end; errors as
    `objects`."""
    place = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    while True:
        page = call(uri, lambda: client().list_objects_v2(**place))
        keys = [item["Key"] for item in page.get("Contents", [])]
        keys += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        yield from filter(None, (key[len(prefix) :] for key in keys))
        if not page.get("IsTruncated"):
            return
        place["ContinuationToken"] = page["NextContinuationToken"]


def copy(uri: str, source: tuple[str, str], target: tuple[str, str]) -> None:
    """Have the server copy an object, in parts when it is large; both are given as bucket and
    key."""
    place = {"Bucket": source[0], "Key": source[1]}
    call(uri, lambda: client().copy(place, *target))


def _away(uri: str, exc: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(
        uri, f"the store does not answer ({exc})", "check AWS_ENDPOINT_URL and the network"
    )


def _error(uri: str, response: Any) -> BoigError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _TAKEN or status == "412":
        return TakenError(uri, "exists", "read it")
    if code in _CONFLICT or status == "409":
        return ConflictError(uri, f"another writer is at the same key ({code})", "try again")
    if code == "NotImplemented" or status == "501":
        return InputError(
            uri,
            "the server does not know this request (If-None-Match?)",
            "use a server with conditional puts",
        )
    if code in _DENIED or status == "403":
        return StorePermissionError(
            uri,
            f"the store refuses this identity ({code})",
            "grant read and write on the bucket and prefix",
        )
    # Before `_MISSING`, which holds this code too: a missing bucket has a remedy of its own.
    if code == "NoSuchBucket":
        return NotFoundInStoreError(
            uri, "the bucket does not exist", "create it, or correct the store's URI"
        )
    if code in _MISSING or status == "404":
        return NotFoundInStoreError(uri, "does not exist", "check the location")
    return StoreUnavailableError(
        uri, f"the store answered {status} {code}", "try again; see the server's log"
    )


_clients: dict[tuple[int, str | None], Any] = {}
_clients_lock = threading.Lock()


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def client() -> Any:
    """One boto3 client per process and endpoint (clients do not survive a fork)."""
    key = (os.getpid(), _endpoint())
    with (
        _clients_lock
    ):  # threads that import boto3 or make a client at the same time meet it half-made
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        # Attempts that stand here keep botocore from reading the variable, so it is read by hand.
        retries={
            "mode": "standard",
            "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "5")),
        },
        connect_timeout=10,
        read_timeout=60,
        # A server behind an address of its own seldom answers to BUCKET.HOST.
        s3={"addressing_style": "path" if _endpoint() else "auto"},
        # By default botocore adds checksums that not every server but AWS's own understands.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)


def _reset_after_fork() -> None:
    """A thread of the parent may have held the lock at the fork; nobody would release it here."""
    global _clients_lock
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_after_fork)


def new_filesystem() -> pafs.FileSystem:
    """pyarrow's filesystem for the endpoint that the environment names."""
    from pyarrow import fs

    endpoint = _endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if not endpoint:
        return fs.S3FileSystem(region=region)
    parts = urlsplit(endpoint)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=parts.netloc,
        scheme="https" if parts.scheme == "https" else "http",
    )
