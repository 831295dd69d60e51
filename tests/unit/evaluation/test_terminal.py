"""Tables of reports, comparisons, descriptions and calibrations in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from boig_core.evaluation.report.report_json import read_report
from boig_core.evaluation.report.terminal import (
    CLOSING,
    print_comparison,
    print_descriptions,
    print_generators,
    print_report,
    validity_lines,
)
from boig_core.llm.metrics import METRICS
from boig_core.rewards.calibration import Calibration, Conditions, KpiPair
from boig_core.rewards.weighted import Scale
from tests.unit.narrow import check_fits, rendered


def cells_of(text: str, name: str) -> list[list[str]]:
    """Cells of each line that begins with a name."""
    return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name]]


def test_a_report_has_every_number_that_was_measured_and_reasons_for_the_rest(
    published: str,
) -> None:
    report = read_report(published)
    text = rendered(lambda console: print_report(report, console))
    for model, row in report["generation"].items():
        if row is not None:
            shown = [cell for cells in cells_of(text, model) for cell in cells]
            for measure in (
                "reward",
                "judge",
                "clip_margin",
                "diversity",
                "diversity_across",
                "novelty",
                "n",
            ):
                value = row[measure]
                assert (
                    value is None or (str(value) if measure == "n" else f"{value:.3f}") in shown
                ), (model, measure)
    for model, row in report["description"].items():
        if row is not None:
            means = [f"{row['colors_iou'][bucket]:.3f}" for bucket in ("high", "low", "all")]
            assert means in [cells[:3] for cells in cells_of(text, model)]
    for name, row in report["reward_validity"].items():
        assert any(
            f"{row['auc_high_vs_low']:.3f}" in cells and cells[-1] in {"passes", "blocked"}
            for cells in cells_of(text, name)
        )
    flat = " ".join(text.split())
    assert report["description"]["few_shot"] is None
    assert not cells_of(text, "few_shot")
    assert f"few_shot ({report['absent']['description.few_shot']})" in flat
    assert "aesthetic (evaluation.aesthetic is not set)" in flat


ROW = {"reward": 0.125, "judge": 0.25, "clip_margin": 10.0, "diversity": 1.5, "fid": 12.5}
GENERATORS = {
    "generation": {
        "base": ROW,
        "boigsd": {**ROW, "fid": None},
        "boigsd_description_rewrite": ROW,
        "best_of_n": None,
    },
    "absent": {"generation.best_of_n": "evaluation.best_of_n is not set"},
}


def test_a_measure_that_one_model_lacks_is_marked() -> None:
    text = rendered(lambda console: print_generators(GENERATORS, console, ("reward", "fid")))
    assert cells_of(text, "base") == [["0.125", "12.500"]]
    assert cells_of(text, "boigsd") == [["0.125", "–"]]
    assert not cells_of(text, "best_of_n")
    assert "best_of_n (evaluation.best_of_n is not set)" in " ".join(text.split())


def test_the_closing_table_is_one_block_with_whole_names() -> None:
    text = rendered(lambda console: print_generators(GENERATORS, console, CLOSING))
    assert cells_of(text, "model") == [["reward", "judge", "CLIP", "margin", "diversity"]]
    assert cells_of(text, "boigsd_description_rewrite") == [["0.125", "0.250", "10.000", "1.500"]]


@pytest.fixture
def comparison() -> dict[str, Any]:
    def difference(mean: float) -> dict[str, float | int]:
        return {"mean": mean, "low": mean - 0.125, "high": mean + 0.125, "clusters": 50, "n": 200}

    names = ("reward", "judge", "clip_margin", "diversity")
    gains = {name: difference(0.1 * number) for number, name in enumerate(names, 1)}
    over = {
        **{name: difference(-0.3 * number) for number, name in enumerate(names, 1)},
        "diversity": None,
    }
    cost = {"gpu_hours": None, "seconds": 3612.4, "cost": None, "stages": {}}
    long = "kl-0.1-with-an-anchor-that-follows-the-moving-average-and-eight-images-per-prompt"
    about = {"means": {}, "cost": cost, "over_base": gains}
    return {
        "reference": "plain",
        "settings": {
            "one_reward": True,
            "images": 200,
            "prompts": 50,
            "judge": "adworld:sunlit",
            "reward": "contrast",
        },
        "groups": {
            "plain": {"variants": ["plain"], "over_base": gains, "over_reference": None},
            long: {"variants": [long, "kl-2"], "over_base": gains, "over_reference": over},
        },
        "variants": {
            "plain": {
                **about,
                "seed": 0,
                "monitors": None,
                "group": "plain",
                "over_reference": None,
            },
            long: {
                **about,
                "seed": 1,
                "monitors": {"drift": "drift: at epoch 3"},
                "group": long,
                "over_reference": over,
            },
        },
        "changes": {},
        "failed": {
            "lost": "ddpo: the reward does not tell high from low on the held-out real images of the test split"
        },
        "absent": {
            f"groups.{long}.over_reference.diversity": "an evaluation is older than diversity by image"
        },
    }


def test_a_comparison_splits_its_wide_tables(comparison: dict[str, Any]) -> None:
    text = rendered(lambda console: print_comparison(comparison, console))
    for number in (1, 2, 3):
        mean = -0.3 * number
        assert f"{mean:+.3f} ({mean - 0.125:+.3f}, {mean + 0.125:+.3f})" in text
    for number in (1, 2, 3, 4):
        assert (
            text.count(
                f"{0.1 * number:+.3f} ({0.1 * number - 0.125:+.3f}, {0.1 * number + 0.125:+.3f})"
            )
            == 2
        )
    assert "".join(comparison["groups"]).removeprefix("plain") in "".join(
        line[:30].strip() for line in text.splitlines()
    )
    flat = " ".join(text.split())
    assert "Not measured: diversity (an evaluation is older than diversity by image)" in flat
    assert "Not measured: GPU-hours (not every run says what it held)" in flat
    assert "3612" in flat
    assert "✗ lost: ddpo: the reward does not tell high from low" in flat


def test_descriptions_show_every_bucket_with_its_interval() -> None:
    def row(at: int) -> dict[str, Any]:
        means = {
            bucket: 0.1 * at + 0.01 * number
            for number, bucket in enumerate(("high", "medium", "low", "all"))
        }
        ends = {bucket: (mean - 0.005, mean + 0.005) for bucket, mean in means.items()}
        return {**means, "undefined": at, "interval": ends}

    rows = {metric: row(at) for at, metric in enumerate(METRICS)}
    rows["objects_cosine"] = {
        **dict.fromkeys(("high", "medium", "low", "all")),
        "undefined": 12,
        "interval": {},
    }
    text = rendered(lambda console: print_descriptions(rows, console))
    assert cells_of(text, "metric")[0] == ["high", "medium", "low", "all", "undefined"]
    second = [f"{mean:.3f}" for mean in (0.1, 0.11, 0.12, 0.13)]
    means, ends = cells_of(text, METRICS[1])
    assert means == [*second, "1"]
    assert ends == [f"{mean - 0.005:.3f}–{mean + 0.005:.3f}" for mean in (0.1, 0.11, 0.12, 0.13)]
    assert cells_of(text, "objects_cosine")[0][-1] == "12"


def test_lines_of_a_calibration_fit_with_the_longest_names_and_verdicts() -> None:
    def measured(auc: float | None) -> dict[str, Any]:
        span = None if auc is None else [auc - 0.0625, auc + 0.0625]
        return {
            "auc_high_vs_low": auc,
            "auc_interval": span,
            "pearson": 0.25,
            "spearman": -0.5,
            "length_correlation": None,
        }

    name = "attribute_similarity"
    result = Calibration.model_construct(
        reward=name,
        recommended=name,
        clip=(0.0, 1.0),
        scales={name: Scale(mean=0.0, std=1.0)},
        conditions=Conditions(accounts={}, fallback=KpiPair(high=90.0, low=10.0)),
        splits={
            "validation": {name: measured(0.75), "dsg": measured(None)},
            "test": {name: measured(0.8125), "dsg": measured(None)},
        },
    )
    lines = list(validity_lines(result, 0.5))
    check_fits("\n".join(lines))
    assert lines[2] == "no AUC: dsg"
    assert lines[1].split() == [name, "0.750", "[0.688,", "0.812]", "0.812", "[0.750,", "0.875]"]
    assert lines[4].split() == [name, "0.250", "-0.500", "–", "passes,", "chosen,", "recommended"]
    assert lines[5].split()[-1] == "blocked"
