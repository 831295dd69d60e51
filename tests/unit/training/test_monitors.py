"""Monitors: which histories trip them, and what never does."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Collapse, Fall, Monitors, Plateau
from boig_core.training.monitors import MONITORS, Trip, check, collapse, fall, plateau

rewards = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


def rows(values: Sequence[float], std: float = 0.1, similarity: float = 0.6, entropy: float = 3.0) -> list[dict[str, float]]:
    return [{"reward": value, "reward_std": std, "similarity": similarity, "color_entropy": entropy} for value in values]


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(1, 5))
def test_a_reward_that_never_falls_is_no_fall_and_one_that_rises_no_plateau(values: list[float], epochs: int) -> None:
    assert fall(rows(sorted(values)), epochs, 0.5) is None
    assert plateau(rows([0.1 * index for index in range(len(values))], std=1.0), epochs, 0.05) is None


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(1, 5), st.floats(-5, 5), st.floats(0.5, 4))
def test_shift_and_scale_of_the_reward_change_no_verdict(values: list[float], epochs: int, shift: float, scale: float) -> None:
    rounded = [round(value) for value in values]
    other = [shift + scale * value for value in rounded]
    for monitor, threshold in ((plateau, 0.0517), (fall, 0.4873)):
        assert (monitor(rows(rounded), epochs, threshold) is None) == (monitor(rows(other, std=0.1 * scale), epochs, threshold) is None)


def test_plateau_trips_after_its_epochs_and_names_the_numbers() -> None:
    flat = [0.0, 1.0, 1.0, 1.0, 1.0]
    assert plateau(rows(flat[:4]), 3, 0.05) is None
    assert plateau(rows(flat), 3, 0.05) == "best reward of the last 3 epochs 1, best before 1, must rise by more than 0.005"


def test_noise_of_a_reward_that_never_rose_is_no_fall() -> None:
    assert fall(rows([1.0, 0.96, 1.0, 0.96]), 1, 0.5) is None
    assert fall(rows([1.0, 0.96, 1.0, 0.94]), 1, 0.5) is not None


@pytest.mark.parametrize(
    ("similarity", "entropy", "named"), [(0.9, 3.0, "diversity"), (0.6, 1.0, "color entropy"), (0.9, 1.0, " and "), (0.7, 2.0, None)]
)
def test_collapse_is_held_against_the_first_epoch(similarity: float, entropy: float, named: str | None) -> None:
    met = collapse([*rows([0.0]), *rows([1.0], similarity=similarity, entropy=entropy)], 0.5, 0.5)
    assert met is None if named is None else met is not None and named in met


def test_what_is_off_never_trips_and_a_trip_survives_json() -> None:
    history = [*rows([0.0, 1.0, 1.0]), *rows([0.0], similarity=0.99)]
    loud = Monitors(plateau=Plateau(epochs=1), fall=Fall(action="stop", epochs=1), collapse=Collapse(action="keep_best"))
    trips = check(loud, history)
    assert [(trip.monitor, trip.epoch, trip.action) for trip in trips] == [
        ("plateau", 3, "warn"), ("fall", 3, "stop"), ("collapse", 3, "keep_best")
    ]  # fmt: skip
    assert [Trip(**trip.state()) for trip in trips] == trips
    assert "monitor fall in epoch 4: mean reward of the last 1 epochs 0, best 1" in str(trips[1])
    quiet = Monitors.model_validate({name: {"action": "off", **({"epochs": 1} if name != "collapse" else {})} for name in MONITORS})
    assert check(quiet, history) == []
