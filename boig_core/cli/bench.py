"""``boig bench``: how fast a recipe's stages are on this machine, so that a team can size a cluster
before it pays for one.

Models of the recipe's sizes do the work on made-up posts; what a language model has learned does
not change how long it takes, so one of random weights gives the rewards. Leaves out: the measuring
itself (`boig_core.diffusion.bench`).
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from boig_core.cli.options import Json, Overrides, RecipeArgument
from boig_core.config import Recipe, load_recipe
from boig_core.errors import RecipeError
from boig_core.vocabulary import Sample

if TYPE_CHECKING:
    from boig_core.diffusion.bench import Speed
    from boig_core.rewards.scorer import LlmScorer

bench_app = typer.Typer(
    name="bench", help="Measure how fast a recipe is on this machine.", no_args_is_help=True
)


_KPI: Final = {"high": 90.0, "low": 10.0}


@bench_app.callback()
def _group() -> None:
    """Keeps ``ddpo`` a command of its own while it is the only one."""


@bench_app.command("ddpo")
def ddpo(
    recipe: RecipeArgument = "tiny",
    overrides: Overrides = None,
    epochs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Epochs that are measured; one more before them warms up and does not count.",
        ),
    ] = 3,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Run on Ray, with as many actors and learner ranks as the recipe asks for; else in this process alone.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how many images a second the alignment (DDPO) makes on this machine, by phase, in one
    process or on Ray; beside it stand what the UNet alone and a plain loop take on one device."""
    settings = load_recipe(recipe, overrides or [])
    if "engagement" in settings.reward.weights:
        rule = "needs an engagement predictor, which is not measured here"
        raise RecipeError(
            f"reward.weights = {settings.reward.name}", rule, "name other formulations"
        )
    from boig_core.training.ranks import name_accelerator

    # Before the next import, which brings DeepSpeed: that looks for its device as it is imported.
    name_accelerator()
    from boig_core.diffusion.bench import bench, measured

    settings, samples = measured(settings, epochs), made_up(settings.ddpo.prompts)
    with tempfile.TemporaryDirectory(prefix="boig-bench-") as folder:
        llm = Path(folder, "llm")
        save_untrained(settings, samples, llm)
        if on_ray:
            from boig_core.cluster.bench import bench_on_ray

            speed = bench_on_ray(
                settings, samples, functools.partial(open_scorer, settings, llm), Path(folder)
            )
        else:
            # Without Ray there is one process, so there is one rank.
            alone = settings.model_copy(
                update={"ddpo": settings.ddpo.model_copy(update={"workers": 1})}
            )
            speed = bench(alone, samples, open_scorer(settings, llm), folder)
    if as_json:
        rates = ("images_per_s", "share_of_floor", "times_sequential")
        print(json.dumps({**asdict(speed), **{name: getattr(speed, name) for name in rates}}))
    else:
        show(settings, speed)


def show(recipe: Recipe, speed: Speed) -> None:
    """The same as a table and sentences."""
    from rich.console import Console

    from boig_core.observability.tables import print_table, say

    console = Console()
    if speed.sampling_s is None:
        rollouts = {"rollouts and rewards": speed.rollouts_s}
    else:
        rollouts = {"sampling": speed.sampling_s, "rewards": speed.rollouts_s - speed.sampling_s}
    phases = {**rollouts, "update": speed.update_s, "epoch": speed.epoch_s}
    rows = {
        name: [f"{seconds:.3f}", f"{speed.images / seconds:.1f}", f"{seconds / speed.epoch_s:.0%}"]
        for name, seconds in phases.items()
    }
    print_table(
        console, f"DDPO of {recipe.name}", ("phase", "s per epoch", "images/s", "share"), rows
    )
    console.print()
    if speed.idle:
        idle = {
            name.removeprefix("idle_").replace("_", " "): share
            for name, share in speed.idle.items()
        }
        say(console, "idle: " + ", ".join(f"{name} {share:.0%}" for name, share in idle.items()))
    forward = f"forward {1000 * speed.forward_s:.1f} ms ({recipe.ddpo.chunk} images)"
    backward = (
        f"forward and backward {1000 * speed.backward_s:.1f} ms ({recipe.ddpo.micro_batch} images)"
    )
    say(console, f"UNet alone: {forward}, {backward}")
    floor = (
        f"an epoch's passes and decoding take {speed.floor_s:.3f} s at these rates on one device"
    )
    say(console, f"{floor}: {speed.share_of_floor:.0%} of the epoch")
    if speed.sequential_s is not None:
        plain = f"sampling, scoring and training in turn, as public loops do, take {speed.sequential_s:.3f} s an epoch"
        say(console, f"{plain}: {speed.times_sequential:.2f} times as long")


def made_up(count: int) -> list[Sample]:
    """High-KPI posts that exist nowhere, all different."""
    return [
        Sample(
            id=f"bench-{i}",
            post=f"bench-{i}",
            account="bench",
            company="Bench",
            timestamp="2024-01-01T00:00:00Z",
            text=f"a post about product {i} that a brand could have written this spring",
            keywords=("product", "spring"),
            kpi=50.0,
            kpi_normalized=95.0,
            bucket="high",
            split="train",
            image="0" * 64,
            width=512,
            height=512,
        )
        for i in range(count)
    ]


def save_untrained(recipe: Recipe, samples: Sequence[Sample], folder: Path) -> None:
    """A language model of the recipe's sizes that has learned nothing, or its base."""
    from boig_core.llm.base import make_model
    from boig_core.llm.tokens import set_limits
    from boig_core.rewards.calibration import KpiPair
    from boig_core.verbalization.templates import Wording, build_prompt

    high = KpiPair(**_KPI).high_condition
    prompts = [build_prompt(sample, high, Wording.of(recipe)) for sample in samples]
    # A published model has its LoRA merged, so the one that gives the rewards here has none.
    tokenizer, model = make_model(
        recipe.llm.model_copy(update={"lora_rank": None}), prompts, recipe.seed
    )
    set_limits(model, tokenizer, recipe.llm.context, recipe.llm.max_new_tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_scorer(recipe: Recipe, llm: Path, device: str = "cpu") -> LlmScorer:
    """The recipe's reward by a language model; nothing is clipped away. Its models find their
    device by themselves."""
    from boig_core.perception.describe import Perceiver
    from boig_core.rewards.calibration import Calibration, Conditions, KpiPair
    from boig_core.rewards.scorer import LlmScorer
    from boig_core.rewards.weighted import Scale

    reward = recipe.reward
    calibration = Calibration(
        reward=reward.name,
        clip=(-1e9, 1e9),
        scales={name: Scale(mean=0.0, std=1.0) for name in reward.weights},
        conditions=Conditions(accounts={}, fallback=KpiPair(**_KPI)),
        recommended=next(iter(reward.weights)),
        splits={},
    )
    return LlmScorer(llm, Perceiver.from_recipe(recipe.perception), recipe, calibration)
