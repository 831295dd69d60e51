"""Rejects: why a row of an export is left out of a dataset, as a code for the counts and a sentence
for the reader.

A bad row is data, never a crash: whatever reads rows raises `Rejected`, and the ingestion writes it
to ``rejects.parquet``.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

Code = Literal[
    "bad_json",
    "encoding",
    "row_too_large",
    "missing_field",
    "bad_kpi",
    "bad_timestamp",
    "out_of_period",
    "text_too_short",
    "text_too_long",
    "filtered_out",
    "repost",
    "forgotten",
    "duplicate_id",
    "account_too_small",
    "account_sampled",
    "image_missing",
    "image_unreadable",
    "image_too_large",
    "image_animated",
    "image_repeated",
    "place_refused",
    "host_refused",
    "opted_out",
    "http_error",
]
CODES: Final[tuple[str, ...]] = get_args(Code)
CHOICES: Final = (
    "account_sampled",
    "account_too_small",
    "filtered_out",
    "forgotten",
    "out_of_period",
    "repost",
)
"""Codes of rows that somebody asked to leave out: nothing is wrong with them."""
VERDICT: Final = "boig:verdict"
"""Column of a row that its file shows to be no good post: the code and the reason. The row goes on,
so that what the recipe leaves out still counts as left out."""
FAULTS: Final = "boig:faults"
"""Column of a row of Parquet: code and reason of each cell that no post can hold, by its column."""
_LONGEST_REASON: Final = 600
"""Characters of a reason: it repeats values of the export, which may be of any size."""


class Rejected(Exception):
    """A row, or one image of it, that cannot become a sample.

    Args:
        code: one of `CODES`, what the counts go by.
        reason: one sentence with the offending value; of a long one the middle is left out, since
            the value comes first as a rule, and the verdict last.
    """

    def __init__(self, code: Code, reason: str) -> None:
        # Whatever characters the value held, the reason has to be written.
        reason = reason.encode(errors="replace").decode()
        if len(reason) > _LONGEST_REASON:
            half = _LONGEST_REASON // 2 - 3
            reason = f"{reason[:half]} ... {reason[-half:]}"
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.reason)


class Again(Exception):
    """A failure that another try may mend, after ``wait_s`` seconds if the server has named a
    time."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
