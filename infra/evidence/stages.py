"""Stages of the demo's recipe on one law, each run once: what has been committed is used again,
also by another of these scripts.

Leaves out: which stages, and what their numbers mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.cli.stage import run_one_stage
from boig_core.storage import commit, store

RECIPE: Final = "tiny"
LONGER: Final = (
    "data.max_posts=5000",
    "data.split=[0.45,0.05,0.5]",
    "llm.workers=1",
    "llm.at_once=1",
    "llm.steps=3000",
    "llm.samples=24",
    "llm.generate_batch=256",
    "llm.eval_posts=1000",
    "reward.posts=3000",
    "evaluation.fid_min=200",
)
"""The demo's recipe on more posts, half of them held out, so that the intervals are narrow: 1,000
test posts per bucket. BoigLLM trains three times as long, and predicts by the consensus of 24
answers: the likeliest one names too few colors to tell the buckets apart (decision 0007). One
worker and one model at a time, so that two laws run side by side on two cores."""
WORLD_SEED: Final = 0


def arguments(about: str | None) -> argparse.ArgumentParser:
    """What each of these scripts can be told: its home, the laws, the seeds, the number of posts,
    settings, and a file for its numbers."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence"))
    parser.add_argument("--laws", nargs="+", default=["sunlit", "nordic"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--posts", type=int, default=24_000)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        dest="settings",
        help="section.field=value, beside those of `stages.LONGER`",
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser


def export(home: Path, law: str, posts: int) -> Path:
    """Folder of a law's ad world with ``posts.jsonl``, written unless it is there."""
    world = (home / "worlds" / law).resolve()
    if not (world / "posts.jsonl").exists():
        write_world(posts, WORLD_SEED, Law.load(law), world)
    return world


class Stages:
    """Runs stages of one law, each once: a committed attempt is used again.

    Args:
        root: of the store.
        law: whose posts they read.
        name: of the dataset and the runs; none: that of the law.
        settings: what differs from the demo's recipe.
    """

    def __init__(
        self, root: str, law: str, name: str | None = None, settings: Sequence[str] = LONGER
    ) -> None:
        self.root, self.law, self.name, self.settings = (
            store.normalize(root),
            law,
            name or law,
            tuple(settings),
        )

    def run(
        self, stage: str, run: str, seed: int, inputs: dict[str, str], more: Sequence[str] = ()
    ) -> dict[str, str]:
        """Outputs of a stage; ``more`` are settings of this stage alone."""
        settings = [*self.overrides(seed), *more]
        # What is found is found by its name alone: other posts or settings need another home.
        done = self._committed(stage, run) or run_one_stage(
            stage, RECIPE, settings, inputs, self.root, f"{self.name}-{run}"
        )
        return dict(done["outputs"])

    def done(self, stage: str, run: str) -> bool:
        """Whether a stage has been run."""
        return self._committed(stage, run) is not None

    def metrics(self, stage: str, run: str) -> dict[str, Any]:
        """Metrics of a stage that has been run."""
        return dict((self._committed(stage, run) or {})["metrics"])

    def _committed(self, stage: str, run: str) -> dict[str, Any] | None:
        task = store.join(self.root, "runs", "manual", f"{self.name}-{run}", stage)
        # The newest attempt first; one that failed has no commit.
        result = (
            commit.read_commit(commit.attempt_uri(task, number))
            for number in reversed(commit.attempts(task))
        )
        return next((done for done in result if done is not None), None)

    def overrides(self, seed: int) -> list[str]:
        """What differs from the demo's recipe."""
        return [
            *self.settings,
            f"seed={seed}",
            f"data.name={self.name}",
            f"evaluation.judge=adworld:{self.law}",
        ]
