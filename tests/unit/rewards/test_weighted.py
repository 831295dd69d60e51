from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.errors import InputError, ScorerError
from boig_core.rewards.weighted import Scale, scale_of, weighted

VALUES = {"contrast": np.array([1.0, 2.0, 6.0]), "dsg": np.array([10.0, 30.0, 20.0])}
SCALES = {name: scale_of(values) for name, values in VALUES.items()}


def test_one_formulation_keeps_its_own_unit() -> None:
    np.testing.assert_array_equal(weighted(VALUES, {"contrast": 1.0}, {}), VALUES["contrast"])
    np.testing.assert_array_equal(weighted(VALUES, {"dsg": -2.0}, {}), -2 * VALUES["dsg"])


def test_several_count_in_units_of_their_spread() -> None:
    result = weighted(VALUES, {"contrast": 1.0, "dsg": 0.5}, SCALES)
    by_hand = (VALUES["contrast"] - 3) / np.sqrt(14 / 3) + 0.5 * (VALUES["dsg"] - 20) / np.sqrt(
        200 / 3
    )
    np.testing.assert_allclose(result, by_hand)


@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_the_unit_of_a_formulation_does_not_matter(factor: float, shift: float) -> None:
    moved = {**VALUES, "dsg": VALUES["dsg"] * factor + shift}
    weights = {"contrast": 1.0, "dsg": 0.5}
    scales = {name: scale_of(values) for name, values in moved.items()}
    np.testing.assert_allclose(
        weighted(moved, weights, scales), weighted(VALUES, weights, SCALES), atol=1e-6
    )  # type: ignore[arg-type]


def test_a_sum_without_scales_or_spread_is_refused() -> None:
    with pytest.raises(ScorerError, match="no scale of it; calibrate again"):
        weighted(VALUES, {"contrast": 1.0, "dsg": 1.0}, {"contrast": SCALES["contrast"]})
    with pytest.raises(InputError, match=r"reward\.weights\.dsg: does not vary"):
        weighted(VALUES, {"contrast": 1.0, "dsg": 1.0}, {**SCALES, "dsg": Scale(mean=1, std=0)})
