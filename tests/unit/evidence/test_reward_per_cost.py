"""What passes cost, when a curve reaches a level, and verdicts that can fail:
`infra/evidence/alignment/reward_per_cost.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boig_core.config import load_recipe
from infra.evidence.alignment import reward_per_cost, reward_per_cost_report


def run(
    rewards: list[float], compute: float, clip: float = 1.0, diversity: float = 1.0
) -> dict[str, object]:
    """A run whose measurements are evenly spaced up to ``compute`` passes, a tenth of a second
    each."""
    points = [
        {
            "epoch": i,
            "compute": at,
            "seconds": at / 10,
            "reward": reward,
            "clip_margin": clip,
            "diversity": diversity,
        }
        for i, (reward, at) in enumerate(
            zip(rewards, np.linspace(0, compute, len(rewards)).tolist(), strict=True)
        )
    ]
    return {"points": points, "lr": 1e-3, "deployed": {"reward": rewards[-1]}}


REFERENCE = [run([0.3, 0.5, 0.6, 0.6, 0.6], 1000)] * 2


def test_an_epochs_passes() -> None:
    cost = {
        arm: reward_per_cost.cost(reward_per_cost.arm_recipe(arm, 1e-3, 0, 60).ddpo) / 128
        for arm in reward_per_cost.ARMS
    }
    assert cost == {
        "reference": 20 + 19 * 3,
        "grpo": 10 + 9 * 3,
        "windowed": 10 + 3 * 3,
        "awm": 10 + 3 + 3 * 3,
    }
    anchored = load_recipe(
        "tiny", ["ddpo.guidance=2", "ddpo.kl=0.1", "ddpo.recompute_logprobs=true"]
    ).ddpo
    assert reward_per_cost.cost(anchored) / 128 == 2 * (10 + 3 + 3 + 3 * 3)


def test_no_arm_spends_more_than_its_share_of_the_references_budget() -> None:
    spent = {
        arm: reward_per_cost.cost(ddpo) * ddpo.epochs
        for arm in reward_per_cost.ARMS
        for ddpo in [reward_per_cost.arm_recipe(arm, 1e-3, 0, 60).ddpo]
    }
    for arm, passes in spent.items():
        assert (
            arm == "reference"
            or 0.95 * reward_per_cost_report.SHARE
            < passes / spent["reference"]
            <= reward_per_cost_report.SHARE
        )
    assert reward_per_cost_report.TARGET < reward_per_cost_report.SHARE


def test_prompts_that_are_measured_are_not_trained_on() -> None:
    trained, held_out = reward_per_cost.prompts(24)
    assert (len(trained), len(held_out)) == (reward_per_cost.TRAINED, 24)
    assert len({sample.text for sample in (*trained, *held_out)}) == reward_per_cost.TRAINED + 24


def test_warm_pixels_are_rewarded() -> None:
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[0], images[1], images[2, :16] = (230, 40, 30), (30, 60, 220), (230, 40, 30)
    assert reward_per_cost.Warmth().score(images, []).tolist() == pytest.approx(
        [1.0, 0.0, 0.5], abs=0.04
    )


def test_a_level_between_measurements_lies_on_the_line() -> None:
    points = run([0.2, 0.4, 0.3, 0.8], 300)["points"]
    assert reward_per_cost_report.reached(points, 0.3)["compute"] == pytest.approx(50)
    assert reward_per_cost_report.reached(points, 0.55)["compute"] == pytest.approx(250)
    assert reward_per_cost_report.reached(points, 0.1) == points[0]
    assert reward_per_cost_report.reached(points, 0.9) is None


def test_an_arm_that_is_cheap_and_keeps_its_images_holds() -> None:
    result = reward_per_cost_report.compare(
        {"reference": REFERENCE, "windowed": [run([0.3, 0.9], 400), run([0.4, 0.8], 300)]}
    )
    assert result["level"] == pytest.approx(0.6)
    assert result["arms"]["windowed"]["compute"] == pytest.approx([0.2, 0.15])
    assert result["arms"]["windowed"]["seconds"] == pytest.approx([0.2, 0.15])
    assert result["arms"]["reference"]["compute"] == pytest.approx([0.5, 0.5])
    assert result["holds"] is True


@pytest.mark.parametrize(
    "seeds",
    [
        [run([0.3, 0.9], 400), run([0.3, 0.9], 500)],  # one seed too dear
        [run([0.3, 0.9], 400), run([0.3, 0.5], 400)],  # one seed never there
        [run([0.3, 0.9], 400, clip=0.8)] * 2,
        [run([0.3, 0.9], 400, diversity=0.8)] * 2,
    ],
)
def test_what_is_dear_late_or_lost_does_not_hold(seeds: list[dict[str, object]]) -> None:
    result = {"runs": {"reference": REFERENCE, "windowed": seeds}}
    result |= reward_per_cost_report.compare(result["runs"])
    assert result["holds"] is False
    assert reward_per_cost_report.table(result)[-1].endswith("DOES NOT HOLD")


def test_without_the_reference_there_is_no_verdict(tmp_path: Path) -> None:
    result = {"runs": {"awm": [run([0.3, 0.9], 400)]}}
    result |= reward_per_cost_report.compare(result["runs"])
    assert result["holds"] is None
    assert len(reward_per_cost_report.table(result)) == 2
    reward_per_cost_report.plot(result["runs"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
