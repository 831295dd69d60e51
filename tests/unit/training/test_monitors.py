"""Monitors: which histories trip them, and what never does."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Collapse, Fall, Monitors, Plateau
from boig_core.training.monitors import (
    MONITORS,
    Trip,
    check,
    collapse,
    drift,
    fall,
    overoptimization,
    plateau,
    quality,
)

rewards = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


def rows(
    values: Sequence[float], std: float = 0.1, similarity: float = 0.6, entropy: float = 3.0
) -> list[dict[str, float]]:
    return [
        {"reward": value, "reward_std": std, "similarity": similarity, "color_entropy": entropy}
        for value in values
    ]


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(1, 5))
def test_a_reward_that_never_falls_is_no_fall_and_one_that_rises_no_plateau(
    values: list[float], epochs: int
) -> None:
    assert fall(rows(sorted(values)), epochs, 0.5) is None
    assert (
        plateau(rows([0.1 * index for index in range(len(values))], std=1.0), epochs, 0.05) is None
    )


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(1, 5), st.floats(-5, 5), st.floats(0.5, 4))
def test_shift_and_scale_of_the_reward_change_no_verdict(
    values: list[float], epochs: int, shift: float, scale: float
) -> None:
    rounded = [round(value) for value in values]
    other = [shift + scale * value for value in rounded]
    for monitor, threshold in ((plateau, 0.0517), (fall, 0.4873)):
        assert (monitor(rows(rounded), epochs, threshold) is None) == (
            monitor(rows(other, std=0.1 * scale), epochs, threshold) is None
        )


def test_plateau_trips_after_its_epochs_and_names_the_numbers() -> None:
    flat = [0.0, 1.0, 1.0, 1.0, 1.0]
    assert plateau(rows(flat[:4]), 3, 0.05) is None
    assert (
        plateau(rows(flat), 3, 0.05)
        == "best reward of the last 3 epochs 1, best before 1, must rise by more than 0.005"
    )


def test_noise_of_a_reward_that_never_rose_is_no_fall() -> None:
    assert fall(rows([1.0, 0.96, 1.0, 0.96]), 1, 0.5) is None
    assert fall(rows([1.0, 0.96, 1.0, 0.94]), 1, 0.5) is not None


@pytest.mark.parametrize(
    ("similarity", "entropy", "named"),
    [(0.9, 3.0, "diversity"), (0.6, 1.0, "color entropy"), (0.9, 1.0, " and "), (0.7, 2.0, None)],
)
def test_collapse_is_held_against_the_first_epoch(
    similarity: float, entropy: float, named: str | None
) -> None:
    met = collapse([*rows([0.0]), *rows([1.0], similarity=similarity, entropy=entropy)], 0.5, 0.5)
    assert met is None if named is None else met is not None and named in met


def test_images_that_all_turn_warm_are_no_collapse_by_default() -> None:
    """Measured on the tiny model under a reward for warm colors, before and after a CLIP finds that
    the variety goes."""
    base, healthy, collapsed = ((0.100, 4.40), (0.762, 2.64), (0.963, 1.13))
    for (similarity, entropy), trips in ((healthy, []), (collapsed, ["collapse"])):
        history = [
            *rows([0.1], similarity=base[0], entropy=base[1]),
            *rows([0.9], similarity=similarity, entropy=entropy),
        ]
        assert [trip.monitor for trip in check(Monitors(), history)] == trips


def margins(*values: float | None) -> list[dict[str, float]]:
    return [
        {"reward": 0.0, **({} if value is None else {"probe_clip_margin": value})}
        for value in values
    ]


def test_drift_is_held_against_the_first_probe_in_probed_epochs_alone() -> None:
    assert (
        drift(margins(20.0, None, 15.9), 0.8)
        == "CLIP margin on held-out prompts 15.9, of the base 20, must not fall below 16"
    )
    assert drift(margins(20.0, None, 16.1), 0.8) is None
    assert drift(margins(20.0, 1.0, None), 0.8) is None
    assert drift(margins(None, None), 0.8) is None
    assert drift(margins(-1.0, -5.0), 0.8) is None  # a base that shows nothing of its prompts


def probed(
    rewards: Sequence[float], held: Sequence[float | None], measure: str
) -> list[dict[str, float]]:
    """The spread of the first probe's images is 2, that of later ones does not count."""
    std = iter([2.0, *[99.0] * len(held)])
    result = [
        {} if value is None else {measure: value, f"{measure}_std": next(std)} for value in held
    ]
    return [
        {"reward": reward, "reward_std": 1.0, **more}
        for reward, more in zip(rewards, result, strict=True)
    ]


@pytest.mark.parametrize("measure", ["probe_engagement", "probe_reward"])
def test_a_probe_that_falls_while_the_reward_rises_is_overoptimization(measure: str) -> None:
    rising = [0.0, 1.0, 2.0, 3.0]
    met = overoptimization(probed(rising, [4.0, None, 6.0, 4.9], measure), 0.5, 0.5)
    assert met == f"{measure} fell from 6 to 4.9 while the reward rose by 1"
    # Less than half of the spread of 2.
    assert overoptimization(probed(rising, [4.0, None, 6.0, 5.1], measure), 0.5, 0.5) is None
    # A reward that stands still.
    assert (
        overoptimization(probed([0.0, 1.0, 2.0, 2.4], [4.0, None, 6.0, 4.9], measure), 0.5, 0.5)
        is None
    )
    # Was said in its epoch.
    assert overoptimization(probed(rising, [4.0, 6.0, 4.9, None], measure), 0.5, 0.5) is None
    assert overoptimization(rows(rising), 0.5, 0.5) is None


def test_the_best_epoch_is_chosen_by_the_best_witness() -> None:
    row = {"reward": 3.0, "probe_reward": 2.0, "probe_engagement": 1.0}
    assert quality(row, probed=True) == 1.0
    assert quality({"reward": 3.0, "probe_reward": 2.0}, probed=True) == 2.0
    assert quality({"reward": 3.0}, probed=True) is None
    assert quality({"reward": 3.0}, probed=False) == 3.0


def test_what_is_off_never_trips_and_a_trip_survives_json() -> None:
    history = [*rows([0.0, 1.0, 1.0]), *rows([0.0], similarity=0.99)]
    loud = Monitors(
        plateau=Plateau(epochs=1),
        fall=Fall(action="stop", epochs=1),
        collapse=Collapse(action="keep_best"),
    )
    trips = check(loud, history)
    assert [(trip.monitor, trip.epoch, trip.action) for trip in trips] == [
        ("plateau", 3, "warn"), ("fall", 3, "stop"), ("collapse", 3, "keep_best")
    ]  # fmt: skip
    assert [Trip(**trip.state()) for trip in trips] == trips
    assert "monitor fall in epoch 4: mean reward of the last 1 epochs 0, best 1" in str(trips[1])
    quiet = Monitors.model_validate(
        {
            name: {"action": "off", **({"epochs": 1} if name in ("plateau", "fall") else {})}
            for name in MONITORS
        }
    )
    assert check(quiet, history) == []
