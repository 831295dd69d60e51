"""The bench runs real epochs and knows how often they call the UNet."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from boig_core.config import Recipe
from boig_core.diffusion import bench as benches
from boig_core.diffusion import learner
from boig_core.vocabulary import Sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "micro_batch", "fraction"), [("grpo", 3, 1.0), ("grpo", 4, 0.5), ("awm", 4, 0.7)]
)
def test_the_floor_counts_each_pass_of_an_epoch(
    recipe: Recipe,
    samples: list[Sample],
    warmth: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    objective: str,
    micro_batch: int,
    fraction: float,
) -> None:
    settings = {"objective": objective, "micro_batch": micro_batch, "timestep_fraction": fraction}
    recipe = recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})
    calls = {"forward": 0, "backward": 0}

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        calls["backward" if output.sample.requires_grad else "forward"] += 1

    class Counted(benches._Timed):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.pipe.unet.register_forward_hook(count)

    class Learner(benches.Learner):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.engine.module.register_forward_hook(count)
            # Its passes are of the start-up, not of an epoch.
            self.update.check_ratio = lambda *_: None

    # So are those of the rehearsal.
    monkeypatch.setattr(learner, "rehearse", lambda *_: None)
    monkeypatch.setattr(benches, "_Timed", Counted)
    monkeypatch.setattr(benches, "Learner", Learner)
    monkeypatch.setattr(benches, "_alone", lambda *args: (2.0, 3.0, 5.0))
    speed = benches.bench(benches.measured(recipe, 1), samples, warmth, str(tmp_path))
    asked = benches.passes(recipe.ddpo, round(fraction * {"grpo": 2, "awm": 3}[objective]))
    # Two epochs, one of which does not count.
    assert calls == {
        "forward": 2 * asked.forward,
        "backward": 2 * asked.backward,
    }
    assert speed.floor_s == 2 * asked.forward + 3 * asked.backward + 5 * asked.decoded
    assert speed.images == 8
    assert speed.sampling_s is not None
    assert speed.sampling_s <= speed.rollouts_s
    assert speed.rollouts_s + speed.update_s == pytest.approx(speed.epoch_s)
    assert (speed.sequential_s is None) == (objective == "awm")
    if speed.sequential_s is not None:
        assert speed.times_sequential == speed.sequential_s / speed.epoch_s > 0
