from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boig_core.adworld.ceiling import best_set, ceilings
from boig_core.adworld.features import Features, of_scene, tone_shares
from boig_core.adworld.law import Law, packaged_laws
from boig_core.adworld.scene import BRANDS, RGB, SEASONS, Scene, Thing, sample_scene
from boig_core.errors import InputError

GOOD = "name: mine\nbase: {median: 100}\nnoise: {sigma: 0.5}\nterms:\n"


def law_of(tmp_path: Path, terms: str) -> Law:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + terms)
    return Law.load(path)


@pytest.mark.parametrize(
    ("terms", "value"),
    [
        ("  - {color: red, weight: heavy}", "terms.0.weight = 'heavy'"),
        ("  - {color: mauve, weight: 1}", "terms.0.color = 'mauve'"),
        ("  - {color: red, weight: 1, wieght: 2}", "terms.0.wieght"),
        ("  - {color: red, place: top, weight: 1}", "exactly one of"),
        ("  - {weight: 1}", "exactly one of"),
        ("  - {color: red, weight: .inf}", "terms.0.weight"),
        ("  - {color: red, weight: 1, season: [monsoon]}", "terms.0.season.0 = 'monsoon'"),
        ("  - {color: [", "line 5"),
        ("  []", "terms"),
    ],
)
def test_a_bad_law_is_one_clear_line(tmp_path: Path, terms: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        law_of(tmp_path, terms)
    assert value in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_law_names_those_that_come_with_the_package() -> None:
    with pytest.raises(InputError, match="nordic, sunlit"):
        Law.load("moonlit")


def test_terms_add_up_and_hold_only_where_they_say(tmp_path: Path) -> None:
    law = law_of(
        tmp_path,
        "  - {color: red, weight: 2}\n  - {color: red, weight: 4, brand: kumo, season: [spring]}\n"
        "  - {kind_color: [ball, blue], weight: 0.5}\n  - {place: top, weight: 1}\n  - {gradient: true, weight: 8}\n",
    )
    things = (Thing("ball", "blue", "top", "small"), Thing("unknown", "blue", "left", "small"))
    features = Features({"red": 0.5, "green": 0.5}, {"warm": 1.0}, False, things)
    assert law.score(features, "verde", "spring") == pytest.approx(1 + 0.5 + 0.5)
    assert law.score(features, "kumo", "spring") == pytest.approx(3 + 0.5 + 0.5)
    assert law.score(features, "kumo", "winter") == pytest.approx(1 + 0.5 + 0.5)


def test_shares_of_a_scene_sum_to_one_and_follow_its_gradient() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        features = of_scene(sample_scene(rng))
        assert sum(features.background.values()) == pytest.approx(1)
        assert sum(features.tones.values()) == pytest.approx(1)
    features = of_scene(Scene("blue", "white", (Thing("ball", "red", "center", "small"),)))
    assert features.gradient
    assert features.background["blue"] > 0.2
    assert features.background["white"] > 0.2


@pytest.mark.parametrize(
    ("tone", "names"),
    [
        ("warm", ["red", "orange", "yellow", "pink", "brown"]),
        ("cool", ["green", "cyan", "blue", "purple"]),
        ("neutral", ["black", "gray", "white"]),
    ],
)
def test_tones_of_the_named_colors(tone: str, names: list[str]) -> None:
    assert tone_shares(np.array([RGB[name] for name in names], np.float32))[tone] == 1


def test_the_packaged_laws_explain_likes_and_prefer_different_images() -> None:
    rng = np.random.default_rng(0)
    brands, seasons = rng.choice(BRANDS, 2000), rng.choice(SEASONS, 2000)
    features = [of_scene(sample_scene(rng, str(brand))) for brand in brands]
    scores = {}
    for name in packaged_laws():
        law = Law.load(name)
        scores[name] = np.array(
            [law.score(f, b, s) for f, b, s in zip(features, brands, seasons, strict=True)]
        )
        log_likes = scores[name] + law.noise.draw(rng, 2000)
        assert 0.75 < np.corrcoef(scores[name], log_likes)[0, 1] < 0.9
    assert np.corrcoef(scores["sunlit"], scores["nordic"])[0, 1] < 0


@pytest.mark.parametrize("name", ["sunlit", "nordic"])
def test_the_bucket_is_worth_knowing_in_both_directions(name: str) -> None:
    result = ceilings(Law.load(name), contexts=60, pool=600)
    assert result["high"].gain > 0.03
    assert result["low"].gain > 0.02


def test_the_best_set_beats_every_single_name() -> None:
    truth = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    assert best_set(truth, np.ones(3)).tolist() == [True, True, False]
    assert best_set(truth, np.array([0.0, 0.0, 1.0])).tolist() == [False, False, True]
