"""Edges and counts of histograms, for any numbers that an export may hold."""

import math
import sys
from itertools import pairwise
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.data.histogram import PERCENTS, histogram, quantiles


def table(values: list[float | None], buckets: list[str | None] | None = None) -> Any:
    con = duckdb.connect()
    con.execute("CREATE TABLE t (value DOUBLE, bucket VARCHAR)")
    con.executemany(
        "INSERT INTO t VALUES (?, ?)",
        list(zip(values, buckets or [None] * len(values), strict=True)),
    )
    return con


numbers = st.one_of(
    st.integers(0, 3000).map(float),
    st.floats(0, 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 5e-324, sys.float_info.max, -sys.float_info.max, 1e15, 1e15 + 1]),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(values=st.lists(numbers, min_size=1, max_size=40))
def test_every_value_is_counted_in_the_bin_that_holds_it(values: list[float]) -> None:
    result = histogram(table(list(values)), "SELECT * FROM t")
    assert result is not None
    edges, counts = result["edges"], result["counts"]["none"]
    assert all(
        low < high and math.isfinite(low) and math.isfinite(high) for low, high in pairwise(edges)
    )
    assert len(counts) == len(edges) - 1 <= 40
    assert edges[0] <= min(values)
    assert max(values) < edges[-1] or edges[-1] == sys.float_info.max
    inner = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    inner[-1] += sum(value == edges[-1] for value in values)
    assert counts == inner


def test_a_long_tail_is_logarithmic_and_anything_else_is_not() -> None:
    tail = histogram(table([math.exp(4 + item / 10) for item in range(-20, 50)]), "SELECT * FROM t")
    even = histogram(table([float(item) for item in range(100)]), "SELECT * FROM t")
    assert tail is not None
    assert even is not None
    assert (tail["scale"], even["scale"]) == ("log", "linear")
    assert even["edges"] == [float(5 * item) for item in range(21)]


def test_zeros_stand_in_the_first_bin_of_a_logarithmic_scale() -> None:
    result = histogram(table([0.0] * 4 + [1.0] * 5 + [10.0, 5000.0]), "SELECT * FROM t")
    assert result is not None
    assert (result["scale"], result["edges"][:2], result["counts"]["none"][:2]) == (
        "log",
        [0.0, 1.0],
        [4, 5],
    )


def test_counts_are_by_bucket_and_nothing_is_nothing() -> None:
    result = histogram(
        table([1.0, 1.0, 2.0, None], ["high", "low", None, "high"]), "SELECT * FROM t"
    )
    assert result is not None
    assert result["edges"] == [1.0, 2.0, 3.0]
    assert result["counts"] == {"high": [1, 0], "medium": [0, 0], "low": [1, 0], "none": [0, 1]}
    assert histogram(table([None]), "SELECT * FROM t") is None


@pytest.mark.parametrize("count", [1, 2, 19, 100, 101])
def test_quantiles_are_the_nearest_ranks(count: int) -> None:
    values = sorted(float((7 * item) % 13) for item in range(count))
    expected = {
        str(percent): values[max(1, math.ceil(percent * count / 100)) - 1] for percent in PERCENTS
    }
    assert quantiles(table(list(values)), "SELECT * FROM t") == expected
