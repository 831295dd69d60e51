"""Laws that are drawn by a seed."""

from __future__ import annotations

import numpy as np
import pytest

from boig_core.adworld.ceiling import ceilings
from boig_core.adworld.features import of_scene
from boig_core.adworld.law import Law, packaged_laws
from boig_core.adworld.scene import BRANDS, SEASONS, sample_scene
from boig_core.config import Policy, load_recipe
from boig_core.errors import InputError


def scores(law: Law, count: int = 400) -> np.ndarray:
    """Of posts of all brands and seasons, as the ad world draws them."""
    rng = np.random.default_rng(0)
    return np.array(
        [
            law.score(
                of_scene(sample_scene(rng)), BRANDS[i % len(BRANDS)], SEASONS[i % len(SEASONS)]
            )
            for i in range(count)
        ]
    )


def test_a_seed_makes_one_law() -> None:
    laws = [Law.load(f"random:{seed}") for seed in range(30)]
    assert laws == [Law.load(f"random:{seed}") for seed in range(30)]
    assert len({law.model_dump_json() for law in laws}) == 30
    assert laws[7].name == "random:7"


def test_drawn_laws_are_as_strong_as_those_of_the_package() -> None:
    spreads = [scores(Law.load(name)).std() for name in packaged_laws()]
    drawn = [scores(Law.load(f"random:{seed}")).std() for seed in range(20)]
    assert min(drawn) > 0.5 * min(spreads)
    assert max(drawn) < 2 * max(spreads)


@pytest.mark.parametrize("seed", range(3))
def test_a_kpi_can_be_known_under_them(seed: int) -> None:
    gain = ceilings(Law.load(f"random:{seed}"), seed=0)["high"].gain
    assert gain > 0


@pytest.mark.parametrize("name", ["random:", "random:-1", "random:x", "random:1.5", "random:1e9"])
def test_a_bad_seed_is_one_clear_line(name: str) -> None:
    with pytest.raises(InputError, match="random:SEED"):
        Law.load(name)


def test_the_strict_policy_allows_them_as_a_judge() -> None:
    recipe = load_recipe("tiny", ["evaluation.judge=adworld:random:3"])
    assert not list(Policy().refusals(recipe, "/store"))
    for law in ("random:../3", "3"):
        other = load_recipe("tiny", [f"evaluation.judge=adworld:{law}"])
        assert list(Policy().refusals(other, "/store")), law
