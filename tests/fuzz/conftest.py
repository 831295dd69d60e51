import pytest


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> int | None:
    """How many times as many mutations as usual; None: the usual ones."""
    times: int | None = request.config.getoption("--fuzz")
    return times
