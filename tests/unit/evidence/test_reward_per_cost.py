"""What passes cost, when a curve reaches a level, and verdicts that can fail:
`infra/evidence/reward_per_cost.py`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from boig_core.config import load_recipe

EVIDENCE = Path(__file__).resolve().parents[3] / "infra" / "evidence"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EVIDENCE))
        return importlib.import_module("reward_per_cost")


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


def test_an_epochs_passes(script: ModuleType) -> None:
    cost = {arm: script.cost(script.arm_recipe(arm, 1e-3, 0, 60).ddpo) / 128 for arm in script.ARMS}
    assert cost == {
        "reference": 20 + 19 * 3,
        "grpo": 10 + 9 * 3,
        "windowed": 10 + 3 * 3,
        "awm": 10 + 3 + 3 * 3,
    }
    anchored = load_recipe(
        "tiny", ["ddpo.guidance=2", "ddpo.kl=0.1", "ddpo.recompute_logprobs=true"]
    ).ddpo
    assert script.cost(anchored) / 128 == 2 * (10 + 3 + 3 + 3 * 3)


def test_no_arm_spends_more_than_its_share_of_the_references_budget(script: ModuleType) -> None:
    spent = {
        arm: script.cost(ddpo) * ddpo.epochs
        for arm in script.ARMS
        for ddpo in [script.arm_recipe(arm, 1e-3, 0, 60).ddpo]
    }
    for arm, passes in spent.items():
        assert (
            arm == "reference" or 0.95 * script.SHARE < passes / spent["reference"] <= script.SHARE
        )
    assert script.TARGET < script.SHARE


def test_prompts_that_are_measured_are_not_trained_on(script: ModuleType) -> None:
    trained, held_out = script.prompts(24)
    assert (len(trained), len(held_out)) == (script.TRAINED, 24)
    assert len({sample.text for sample in (*trained, *held_out)}) == script.TRAINED + 24


def test_warm_pixels_are_rewarded(script: ModuleType) -> None:
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[0], images[1], images[2, :16] = (230, 40, 30), (30, 60, 220), (230, 40, 30)
    assert script.Warmth().score(images, []).tolist() == pytest.approx([1.0, 0.0, 0.5], abs=0.04)


def test_a_level_between_measurements_lies_on_the_line(script: ModuleType) -> None:
    points = run([0.2, 0.4, 0.3, 0.8], 300)["points"]
    assert script.reached(points, 0.3)["compute"] == pytest.approx(50)
    assert script.reached(points, 0.55)["compute"] == pytest.approx(250)
    assert script.reached(points, 0.1) == points[0]
    assert script.reached(points, 0.9) is None


def test_an_arm_that_is_cheap_and_keeps_its_images_holds(script: ModuleType) -> None:
    result = script.compare(
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
def test_what_is_dear_late_or_lost_does_not_hold(
    script: ModuleType, seeds: list[dict[str, object]]
) -> None:
    result = {"runs": {"reference": REFERENCE, "windowed": seeds}}
    result |= script.compare(result["runs"])
    assert result["holds"] is False
    assert script.table(result)[-1].endswith("DOES NOT HOLD")


def test_without_the_reference_there_is_no_verdict(script: ModuleType, tmp_path: Path) -> None:
    result = {"runs": {"awm": [run([0.3, 0.9], 400)]}}
    result |= script.compare(result["runs"])
    assert result["holds"] is None
    assert len(script.table(result)) == 2
    script.plot(result["runs"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
