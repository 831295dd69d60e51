"""Mutations of what comes from outside: a few seconds of them in each run of the suite, the same
ones every time; ``--fuzz N`` makes N times as many, drawn by chance.

The smallest input that fails is left in ``corpus/KIND/new``. Give it a name that says what it is
and commit it with the mend: `test_corpus` replays all of them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.evidence.data.mutations import mutate
from tests.fuzz.properties import KINDS
from tests.fuzz.test_corpus import CORPUS


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_an_item_or_a_clear_refusal(kind: str, fuzz: int | None) -> None:
    seeds, check = KINDS[kind].seeds(), KINDS[kind].check
    failing = CORPUS / kind / "new"

    @settings(
        max_examples=KINDS[kind].examples * (fuzz or 1),
        derandomize=fuzz is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def search(seed: bytes, draw: random.Random) -> None:
        data = mutate(seed, seeds, draw)
        try:
            check(data)
        # The last one that fails is the smallest: hypothesis ends with it.
        except BaseException:
            failing.parent.mkdir(exist_ok=True)
            failing.write_bytes(data)
            raise

    search()
