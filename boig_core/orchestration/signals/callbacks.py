"""What happens when a task has failed for good: one readable line in the log, and an alert with the
error, its remedy and where to look.

Airflow calls it for the task that failed, not for those that waited for it, and not before the last
retry. Leaves out: sending, and that a cause is told once (see `alerts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from boig_core.errors import BoigError
from boig_core.escapes import visible
from boig_core.observability.logs import get_logger, hide_secrets
from boig_core.orchestration.signals import alerts, counts

log = get_logger(__name__)

LONGEST: Final = 1000
"""Characters of an error's message that are told; what is longer is in the log."""

# Without what stands behind the first slash: a server or a bucket is away, whichever path of it was
# asked for.
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s;,)]+")
_VARIES: Final = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


@dataclass(frozen=True)
class Cause:
    """Why a task has failed.

    Attributes:
        type: the error's class; of boig's own errors the one in `errors`.
        message: value and rule, in one line.
        remedy: what the reader can do.
        kind: of an infrastructure error other runs fail, too; ``other`` is none of boig's.
    """

    type: str
    message: str
    remedy: str
    kind: Literal["user", "infrastructure", "other"]

    @classmethod
    def of(cls, error: object) -> Cause:
        """Of what Airflow hands over: an exception, its text, or nothing."""
        if isinstance(error, BoigError):
            # By its base in `errors`: tasks that meet the same outage at different calls raise
            # different subclasses, and that is still one cause.
            name = next(
                base.__name__
                for base in type(error).__mro__
                if base.__module__ == BoigError.__module__
            )
            kind: Literal["user", "infrastructure"] = (
                "user" if error.is_user_error else "infrastructure"
            )
            return cls(name, _line(f"{error.value}: {error.rule}"), _line(error.remedy), kind)
        name = type(error).__name__ if isinstance(error, BaseException) else "Failed"
        return cls(
            name,
            _line(str(error or "its process was killed, or lost Airflow")),
            "see the task's log",
            "other",
        )

    def told_once(self, dag: str, run: str) -> tuple[str, ...]:
        """What is told once: an outage by the address that is away, any other infrastructure error
        by DAG and message, all else by run.

        Numbers and digests are left out of the message: they tell apart attempts, processes and
        mapped tasks, not causes.
        """
        outside, address = (
            self.kind == "infrastructure",
            _ADDRESS.search(f"{self.message}; {self.remedy}"),
        )
        if outside and address:
            return self.type, address[0].rstrip(":.'\"")
        return dag, "" if outside else run, self.type, _VARIES.sub("#", self.message)


def on_failure(context: Any) -> None:
    """Alert, and log the failure as the last line."""
    cause, ti = Cause.of(context.get("exception")), context["ti"]
    try:
        counts.failure(ti.task_id, cause.kind, cause.type, last=True)
        alerts.tell(failure(context, cause))
    # whatever breaks here must not hide why the task has failed; its text may hold the address
    except Exception as exc:
        log.warning("no alert: %s", type(exc).__name__)
    # Airflow's page folds up what callbacks log; this line is to be seen without a click.
    log.info("::endgroup::")
    log.error(
        "%s / %s / %s failed: %s: %s; %s",
        ti.dag_id,
        ti.run_id,
        ti.task_id,
        cause.type,
        cause.message,
        cause.remedy,
    )


def on_retry(context: Any) -> None:
    """Count a failure that is tried again; nobody needs to know."""
    cause = Cause.of(context.get("exception"))
    counts.failure(context["ti"].task_id, cause.kind, cause.type, last=False)


def failure(context: Any, cause: Cause) -> alerts.Alert:
    """The alert of a failed task: error, remedy, and links to the task's log, its Ray job, and the
    pages that are known."""
    ti, task = context["ti"], context["task"]
    mapped = "" if ti.map_index is None or ti.map_index < 0 else f" · map index {ti.map_index}"
    # A DAG's light tasks have no job, and most of them no pages.
    links = {
        "Task log": ti.log_url,
        "Ray job": getattr(task, "job_url", ""),
        **getattr(task, "pages", {}),
    }
    body = [
        f"{cause.type}: {cause.message}",
        f"Remedy: {cause.remedy}",
        f"Run {ti.run_id} · try {ti.try_number}{mapped}",
        *(f"{name}: {address}" for name, address in links.items() if address),
    ]
    return alerts.Alert(
        f"{ti.dag_id}: {ti.task_id} failed", tuple(body), cause.told_once(ti.dag_id, ti.run_id)
    )


def _line(text: str) -> str:
    line = " ".join(visible(hide_secrets(text)).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
