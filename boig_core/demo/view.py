"""The live view of a demo: what runs, since when, how far it is, and what came out of what is done.

Leaves out: asking Airflow and the store (see `follow` and `notes`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from boig_core.observability.progress import fitted

CHAIN: dict[str, list[str]] = {
    "boig_ingest": ["ingest", "perceive"],
    "boig_llm": ["finetune_llm", "evaluate_llm", "calibrate"],
    "boig_sd": ["finetune_sd", "ddpo", "evaluate_sd", "report"],
    "boig_promote": ["gates", "approval", "promote"],
}
"""DAGs in their order, with the tasks that the view shows."""

EVERY_S: Final = 30.0
"""Least seconds between two lines of progress of a task, where lines are not drawn anew."""
_INDENT: Final = " " * 6

_LOOKS: Final = {
    "success": "green",
    "failed": "red",
    "upstream_failed": "red",
    "skipped": "yellow",
    "running": "cyan",
    "deferred": "cyan",
    "awaiting_input": "cyan",
}
_WORDS: Final = {
    "deferred": "running",
    "success": "done",
    "queued": "waits",
    "scheduled": "waits",
    "up_for_retry": "again",
    "upstream_failed": "left out",
    "awaiting_input": "asks you",
    "none": "waits",
}


@dataclass
class TaskRow:
    """One task of the view."""

    dag: str
    task: str
    state: str | None = None
    since: float | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    printed: float | None = None

    @property
    def word(self) -> str:
        """The state, as people say it."""
        return _WORDS.get(self.state or "none", self.state or "")

    @property
    def over(self) -> bool:
        """Whether the task has ended."""
        return self.state in {"success", "failed", "skipped", "upstream_failed"}

    def elapsed(self) -> str:
        """Time since the start, or the time it took, as m:ss."""
        running = None if self.since is None else time.monotonic() - self.since
        spent = running if self.seconds is None else self.seconds
        return "" if spent is None else f"{int(spent) // 60}:{int(spent) % 60:02d}"

    def lines(self, width: int) -> list[str]:
        """The task in a line, with its closing number once it has ended, else with its progress
        below."""
        head = f"  {self.task:<13} {self.word:<8} {self.elapsed():>6}"
        if not self.notes:
            return [head.rstrip()]
        if self.over:
            return [f"{head}  {fitted(self.notes[0], width - len(head) - 2)}"]
        return [
            head.rstrip(),
            *(_INDENT + fitted(note, width - len(_INDENT)) for note in self.notes),
        ]


@dataclass
class View:
    """Lines that are drawn anew in a terminal, and one line per change elsewhere; use with
    ``with``."""

    console: Console
    rows: list[TaskRow] = field(
        default_factory=lambda: [
            TaskRow(dag, task) for dag, tasks in CHAIN.items() for task in tasks
        ]
    )

    def __post_init__(self) -> None:
        terminal = self.console.is_terminal
        # Drawn by a function, so that times go on between two updates.
        self._live = (
            Live(get_renderable=self._drawn, console=self.console, refresh_per_second=2)
            if terminal
            else None
        )
        self._dag = ""

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, row: TaskRow, state: str | None, notes: Sequence[str]) -> None:
        """Show a task's state, and its progress or closing number."""
        if state in {"queued", "scheduled"} and row.since is not None:
            # A deferred task is queued once more, to take up its job's result.
            state, notes = "running", notes or row.notes
        word, changed, fresh = row.word, state != row.state, tuple(notes) != row.notes
        # A question is timed from when it is asked; a stage goes on counting when it is deferred.
        if changed and (
            state == "awaiting_input" or (state in {"running", "deferred"} and row.since is None)
        ):
            row.since = time.monotonic()
        row.state, row.notes = state, tuple(notes)
        if changed and row.over and row.since is not None:
            row.seconds = time.monotonic() - row.since
        if self._live:
            return
        if changed and row.word != word:
            self._print(row.dag, row.lines(self.console.width))
            row.printed = time.monotonic() if notes else None
        elif fresh and notes and (row.printed is None or time.monotonic() - row.printed >= EVERY_S):
            row.printed = time.monotonic()
            beside = any(other.word == "running" for other in self.rows if other is not row)
            # Lines of two stages alternate, so each says whose it is.
            head = f"  {row.elapsed():>5}  {row.task}  " if beside else f"  {row.elapsed():>5}  "
            self._print(
                row.dag, [head + fitted(note, self.console.width - len(head)) for note in notes]
            )

    def _print(self, dag: str, lines: Sequence[str]) -> None:
        heading = [] if dag == self._dag else [dag]
        self._dag = dag
        self.console.print(
            "\n".join([*heading, *lines]), soft_wrap=True, highlight=False, markup=False
        )

    def _drawn(self) -> Group:
        width, lines = self.console.width, []
        for number, row in enumerate(self.rows):
            if number == 0 or self.rows[number - 1].dag != row.dag:
                lines.append(Text(row.dag, style="bold", no_wrap=True))
            style = _LOOKS.get(row.state or "", "dim")
            head, *below = row.lines(width)
            lines.append(Text(head, style=style, no_wrap=True))
            lines += [Text(line, no_wrap=True) for line in below]
        return Group(*lines)
