"""The bench runs real epochs and knows how often they call the UNet."""

from typing import Any

import pytest
from torch import nn

from boig_core.config import Recipe
from boig_core.diffusion import bench as benches
from boig_core.diffusion.rollout import Sampler, epoch_window
from boig_core.vocabulary import Sample


@pytest.mark.parametrize(("micro_batch", "fraction"), [(3, 1.0), (4, 0.5)])
def test_the_floor_counts_each_pass_of_an_epoch(
    recipe: Recipe, samples: list[Sample], warmth: Any, monkeypatch: pytest.MonkeyPatch, micro_batch: int, fraction: float
) -> None:
    recipe = recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update={"micro_batch": micro_batch, "timestep_fraction": fraction})})
    calls = {"forward": 0, "backward": 0}

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        calls["backward" if output.sample.requires_grad else "forward"] += 1

    class Counted(Sampler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.pipe.unet.register_forward_hook(count)

    class Learner(benches.Learner):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.engine.module.register_forward_hook(count)

        def _check_ratio(self, part: Any) -> None:
            """Its passes are of the start-up, not of an epoch."""

    monkeypatch.setattr(benches, "Sampler", Counted)
    monkeypatch.setattr(benches, "Learner", Learner)
    monkeypatch.setattr(benches, "_alone", lambda *args: (2.0, 3.0, 5.0))
    speed = benches.bench(recipe, samples, warmth, epochs=1)
    first, end = epoch_window(recipe.ddpo, recipe.seed, 0)
    asked = benches.passes(recipe.ddpo, round(fraction * (end - first)))
    assert calls == {"forward": 2 * asked.forward, "backward": 2 * asked.backward}  # two epochs, one of which does not count
    assert speed.floor_s == 2 * asked.forward + 3 * asked.backward + 5 * asked.decoded
    assert speed.images == 8
    assert speed.sampling_s + speed.reward_s + speed.update_s <= speed.epoch_s
