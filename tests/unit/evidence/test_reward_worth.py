"""Verdicts of `infra/evidence/rewards/reward_worth.py` that can fall either way."""

from __future__ import annotations

from typing import Any

import pytest

from infra.evidence.rewards import reward_worth


def measured(auc: float, spearman: float = 0.5, length: float | None = 0.1) -> dict[str, Any]:
    return {
        "auc_high_vs_low": auc,
        "auc_interval": (auc - 0.02, auc + 0.02),
        "spearman": spearman,
        "spearman_interval": (spearman - 0.1, spearman + 0.1),
        "length_correlation": length,
        "n": 300,
    }


def row(share: float, spearman: float = 0.5, rmse: float = 20.0) -> dict[str, Any]:
    return {
        "chosen": "contrast",
        "formulations": {
            "contrast": measured(0.9),
            "dsg": measured(0.45),
            "engagement": measured(0.8, spearman),
        },
        "oracle": measured(1.0, length=None),
        "share_of_oracle": {"contrast": share, "dsg": -0.1, "engagement": 0.6},
        "rmse": {"engagement_rmse_test": rmse, "mean_kpi_rmse_test": 29.0},
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (row(0.8), True),
        (row(0.69), False),
        (row(0.8, spearman=0.05), False),
        (row(0.8, rmse=29.5), False),
    ],
)
def test_the_verdict_asks_the_chosen_reward_and_the_predictor(
    found: dict[str, Any], expected: bool
) -> None:
    assert reward_worth.holds(found) is expected
    lines = reward_worth.table("sunlit", {"seed 0": found})
    assert lines[-2].endswith("DOES NOT HOLD") is not expected
    assert any(
        "contrast*" in line and line.endswith(f"{found['share_of_oracle']['contrast']:.2f}")
        for line in lines
    )


def test_without_a_predictor_the_reward_alone_is_asked() -> None:
    result = row(0.8) | {"rmse": {}}
    del result["formulations"]["engagement"]
    assert reward_worth.holds(result)
