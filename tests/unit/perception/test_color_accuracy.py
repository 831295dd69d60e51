"""Names and coverages on images of known composition, which `infra/evidence/colors.py` makes and
describes, at a large and a small side."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "infra" / "evidence" / "colors.py"


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence_colors", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("side", [512, 32])
def test_names_and_coverages_of_known_compositions(evidence: ModuleType, side: int) -> None:
    result = evidence.accuracy(evidence.compositions(80), side)
    assert result["pairs"] > 200
    assert result["named"] >= 0.98
    assert result["coverage_within"] >= 0.98
    assert result["images_with_invented_name"] <= 0.02 * result["images"]
