"""Verdicts of `infra/evidence/alignment/boigsd_gains.py` and `trap_law.py` that can fall either
way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boig_core.adworld.law import Law
from boig_core.config import load_recipe
from infra.evidence.alignment import boigsd_gains, trap_law


def span(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high}


def rows(pair: str, *judged: dict[str, float]) -> dict[str, Any]:
    return {
        f"seed {seed}": {"paired": {pair: {"judge": result, "reward": result}}}
        for seed, result in enumerate(judged)
    }


@pytest.mark.parametrize(
    ("pair", "judged", "holds"),
    [
        ("boigsd-base", [span(0.1, 0.5), span(0.2, 0.6)], True),
        ("boigsd-base", [span(-0.1, 0.5), span(2.2, 2.6)], False),  # one seed is enough
        ("boigsd-high_kpi", [span(-0.9, 0.1), span(-0.3, 0.3)], True),  # level
        ("boigsd-high_kpi", [span(-0.9, -0.5), span(-0.3, 0.3)], False),
        ("boigsd-best_of_n", [span(-0.9, -0.5)], None),
    ],
)
def test_what_must_hold(pair: str, judged: list[dict[str, float]], holds: bool | None) -> None:
    assert boigsd_gains.verdict(pair, rows(pair, *judged)) is holds


def test_over_all_seeds_an_interval_is_no_narrower_than_theirs() -> None:
    result = boigsd_gains.spans(
        "boigsd-base", "judge", rows("boigsd-base", span(0.0, 1.0), span(1.0, 3.0))
    )
    assert result["all"] == span(0.5, 2.0)


def test_high_kpi_fine_tuning_has_the_passes_of_the_alignment() -> None:
    """Of 128 images: 10 steps sampled, 3 trained on, forward and twice that backward; a step of
    fine-tuning takes 3 an image."""
    recipe = load_recipe("tiny", ["ddpo.epochs=9"])
    passes = 9 * 128 * (10 + 3 * 3)
    assert boigsd_gains.equal_steps(["ddpo.epochs=9"]) == passes // (3 * recipe.sd.batch)


@pytest.mark.parametrize(
    ("free", "stopped", "expected"),
    [
        (span(-3.0, -0.1), span(-0.5, 1.0), "IN_TIME"),
        (
            span(-3.0, 0.1),
            span(-0.5, 1.0),
            "NOT_MET",
        ),  # the free run is not beyond doubt below the base
        (span(-3.0, -0.1), span(-1.5, 1.0), "TOO_LATE"),
        (span(-3.0, 0.1), span(-1.5, 1.0), "TOO_LATE"),
    ],
)
def test_a_trap_is_met_or_not_and_the_run_stopped_in_time_or_not(
    free: dict[str, float], stopped: dict[str, float], expected: str
) -> None:
    answers = trap_law.verdict({"free": {"judge": free}, "stopped": {"judge": stopped}})
    assert answers == getattr(trap_law, expected)


def test_the_trap_is_the_law_and_one_rule_more(tmp_path: Path) -> None:
    trap, law = Law.load(trap_law.trap_law(tmp_path)), Law.load("sunlit")
    assert (trap.off_topic, law.off_topic) == (trap_law.OFF_TOPIC, 0.0)
    assert trap.terms == law.terms


def test_the_published_table_has_a_row_per_law_and_seed() -> None:
    paired = {
        pair: {"judge": span(0.1, 0.5), "reward": span(2.0, 4.0)}
        for pair in ("boigsd-base", "boigsd-high_kpi", "boigsd-best_of_n")
    }
    generation = {
        "base": {"clip_margin": 2.0, "diversity": 1.0},
        "boigsd": {"clip_margin": 2.1, "diversity": 0.75},
    }
    row = {"paired": paired, "generation": generation}
    table = boigsd_gains.published_table({"sunlit": {"seed 0": row, "seed 1": row}})
    gain = "+0.30 [+0.10, +0.50]"
    assert table.rows == (
        ("sunlit, 0", gain, gain, gain, "+3.00 [+2.00, +4.00]", "105 %, 75 %"),
        ("sunlit, 1", gain, gain, gain, "+3.00 [+2.00, +4.00]", "105 %, 75 %"),
    )
    assert len(table.columns) == 6
