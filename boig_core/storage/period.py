"""The period of posts that a run takes in: written beside the run by its orchestration, read by the
stage ingest.

Leaves out: which period that is (see `orchestration.planning.intervals`), and what becomes of its
posts (see `data.ingestion`).
"""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from boig_core.errors import InputError
from boig_core.storage import store


class Period(BaseModel):
    """Moments from ``since`` up to, and without, ``until``.

    Attributes:
        since: None: from the first post on.
        until: where it ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    since: AwareDatetime | None
    until: AwareDatetime

    def __contains__(self, moment: datetime) -> bool:
        return (self.since is None or self.since <= moment) and moment < self.until

    def __str__(self) -> str:
        return (
            f"[{'...' if self.since is None else self.since.isoformat()}, {self.until.isoformat()})"
        )


def read_period(uri: str) -> Period:
    """The period of a file.

    Raises:
        InputError: the file holds none.
        NotFoundInStoreError: no such file.
    """
    try:
        return Period.model_validate_json(store.read_bytes(uri))
    except ValidationError as exc:
        raise InputError(
            uri,
            "is no period",
            'write {"since": "2026-01-31T00:00:00Z", "until": "2026-02-01T00:00:00Z"}',
        ) from exc


def write_period(uri: str, period: Period) -> str:
    """Put a period into a file; returns its URI."""
    store.write_bytes(uri, period.model_dump_json().encode())
    return uri
