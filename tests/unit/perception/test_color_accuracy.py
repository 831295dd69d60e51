"""Names and coverages on images of known composition, which `infra.evidence.perception.colors`
makes and describes, at a large and a small side."""

import pytest

from infra.evidence.perception import colors


@pytest.mark.slow
@pytest.mark.parametrize("side", [512, 32])
def test_names_and_coverages_of_known_compositions(side: int) -> None:
    result = colors.accuracy(colors.compositions(80), side)
    assert result["pairs"] > 200
    assert result["named"] >= 0.98
    assert result["coverage_within"] >= 0.98
    assert result["images_with_invented_name"] <= 0.02 * result["images"]
