"""What a demo shows at its end: the generators, the verdict, the gates in words, what became of the
candidate, and what to try next.

Leaves out: what happens before (see `run` and `follow`), and the whole report (`boig report`).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from boig_core.config import Promotion
from boig_core.demo.processes import Ports
from boig_core.demo.services import APPROVER, TRAINER
from boig_core.evaluation.report.terminal import CLOSING, print_generators, print_marked
from boig_core.evaluation.report.verdict import findings, headline
from boig_core.observability.tables import say
from boig_core.orchestration.promotion.gates import Gate, in_words

DEFAULT_HOME: Final = ".boig"


def show_results(
    console: Console,
    report: Mapping[str, Any],
    promotion: Promotion,
    gates: Sequence[Mapping[str, Any]],
    promoted: Mapping[str, Any] | None,
) -> None:
    """Print the closing table, the verdict, the gates and the decision.

    Args:
        console: where to.
        report: content of ``report.json``.
        promotion: limits of the recipe.
        gates: fields of each gate.
        promoted: what the promotion returned; None: a gate failed.
    """
    measured = {model: row for model, row in report["generation"].items() if row is not None}
    print_generators({**report, "generation": measured}, console, CLOSING)
    console.print()
    say(console, headline(findings(report, promotion)), style="bold")
    for gate in (Gate(**fields) for fields in gates):
        mark, style = (
            ("✗", "red")
            if not gate.passed
            else ("·", "dim")
            if gate.value is None
            else ("✓", "green")
        )
        print_marked(console, mark, style, in_words(gate))
    if promoted:
        version, approver = promoted["version"], promoted["approved_by"]
        say(
            console,
            f"Promoted: {promoted['model']} version {version} is champion (approved by {approver}).",
        )
    else:
        say(console, "Not promoted: a gate failed, nobody was asked, the champion stays.")


def show_next(
    console: Console, home: Path, root: str, law: str, keep: bool, promoted: bool
) -> None:
    """Print where the results are and what to try next.

    Args:
        console: where to.
        home: the demo's folder.
        root: of the store.
        law: the demo's own law.
        keep: whether its servers stay up.
        promoted: whether there is a champion.
    """
    boig, place = (
        command(),
        f" --home {shown(home)}" if home != Path(DEFAULT_HOME).resolve() else "",
    )
    other = "nordic" if law != "nordic" else "sunlit"
    kept = "" if keep else " --keep"
    lines = _to_generate(boig, home, promoted) | {
        f"{boig} report {shown(home / 'report.json')}": "every number as tables",
        f"{boig} demo --law {other}{kept}{place}": "an audience with other tastes"
        + ("" if keep else "; Airflow, Ray and MLflow stay up to look at"),
        f"{boig} ingest your-posts.jsonl --set data.name=yours": "a dataset from posts of your own (docs/tutorial/own-dataset.md)",
    }
    console.print()
    for name, where in {
        "Report": shown(home / "report.html"),
        "Store": shown(Path(root)) if "://" not in root else root,
    }.items():
        # In one piece, so that it can be copied; without markup, since a path may hold brackets.
        console.print(f"{name:<7} {where}", soft_wrap=True, highlight=False, markup=False)
    console.print("\nTry next:")
    for number, (line, why) in enumerate(lines.items(), 1):
        console.print(f"  {number}. {line}", soft_wrap=True, highlight=False, markup=False)
        say(console, why, "     ")


def _to_generate(boig: str, home: Path, promoted: bool) -> dict[str, str]:
    """How to make images by the champion, whose registry is read without its server."""
    if not promoted:
        return {}
    with (home / "world" / "posts.jsonl").open(encoding="utf-8") as posts:
        account = json.loads(posts.readline())["account"]
    lines = (
        f"MLFLOW_TRACKING_URI=sqlite:///{shown(home / 'mlflow' / 'mlflow.db')}",
        f'{boig} generate "a star for the autumn offer"',
        f"--account {shlex.quote(account)} --aim high --out images",
    )
    return {" \\\n     ".join(lines): "images of the champion, best first"}


def show_servers(console: Console, ports: Ports, passwords: Mapping[str, str]) -> None:
    """Print where the servers are that stay up."""
    console.print(f"\nThe servers stay up; `{command()} demo --stop` ends them.", highlight=False)
    print_servers(console, ports, passwords)


def print_servers(console: Console, ports: Ports, passwords: Mapping[str, str]) -> None:
    """Print where the servers are, and who logs in where with what."""
    rows = {
        "Airflow": f"http://127.0.0.1:{ports.airflow}",
        "": f"{TRAINER} / {passwords[TRAINER]} starts, {APPROVER} / {passwords[APPROVER]} approves",
        "Ray": f"http://127.0.0.1:{ports.dashboard}",
        "MLflow": f"http://127.0.0.1:{ports.mlflow}",
    }
    for name, text in rows.items():
        console.print(f"  {name:<8} {text}", soft_wrap=True, highlight=False, markup=False)


def command() -> str:
    """How this installation's ``boig`` is called from here."""
    return shown(Path(sys.executable).parent / "boig")


def shown(path: Path) -> str:
    """A path as short as it can be given from here."""
    inside = os.path.relpath(path)
    return str(path) if inside.startswith("..") else inside
