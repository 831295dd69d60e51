"""What is worth another try: infrastructure errors, after ever longer waits; never a user error,
whatever a task's ``retries`` says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from boig_core.errors import UserError

POLICY: Final = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=UserError,
            action=RetryAction.FAIL,
            reason="a user error: the same input fails again",
        )
    ]
)

RETRIES: Final[dict[str, Any]] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": POLICY,
}
"""Arguments of every task: 20 s, 40 s and 80 s between tries, which outlasts the restart of a Ray
head or of the store."""
