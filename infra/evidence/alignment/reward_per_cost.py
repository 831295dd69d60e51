"""What does a reward cost? Four ways to align the tiny model, on one plot: reward on held-out
prompts against compute and seconds.

Arms: ``reference`` (DDPO as published: 20 steps, every one stochastic and trained on, all weights,
per-prompt statistics), ``grpo`` (10 steps, group-relative, a LoRA), ``windowed`` (the same inside a
window of 3 steps) and ``awm`` (deterministic sampling, final latents noised again). None uses
guidance in training. The reward is the share of warm pixels, which needs no model. Rollouts run in
this process, without Ray, and one after the other.

Compute is counted in passes of the UNet for one image, a forward pass as 1 and a backward pass as
2; passes of an anchor and recomputed log-probabilities count, decoding and the measurements on
held-out prompts do not. Each arm has the same number of tuning trials: learning rates, tried on a
seed of their own, of which the one with the highest final reward is used for all seeds. The
reference spends its whole budget, every other arm `SHARE` of it at most.

An arm costs what it spends until it first reaches the reference's final reward (mean of its last
three measurements and of its seeds). `windowed` must get there on every seed with a fifth of the
reference's compute. At that reward it must also keep `KEPT` of the CLIP margin (own prompt minus
other prompts) and of the diversity within a prompt that the reference has at its end, as means over
seeds.

Each run writes a file, and is never done again: the script can be stopped and started. Prints a
table, writes ``reward_per_cost.json`` and ``reward_per_cost.png``. Exit code 1: something that must
hold does not.

    python -m infra.evidence.alignment.reward_per_cost --home .boig/reward_per_cost [--arms ...]
        [--seeds 0 1 2] [--epochs 10] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.adworld.export import draw_posts
from boig_core.adworld.law import Law
from boig_core.config import DDPO, Recipe, load_recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import LocalRollouts, RolloutChunk, Sampler, epoch_steps
from boig_core.diffusion.sample import sample_images
from boig_core.diffusion.trajectory import Trajectory
from boig_core.evaluation.measure.judges import ClipJudge, clip_scores, diversity
from boig_core.perception.census import measure
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample
from infra.evidence import published
from infra.evidence.alignment.reward_per_cost_report import (
    SHARE,
    Point,
    Run,
    compare,
    final_reward,
    plot,
    table,
)

ARMS: Final[Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]]] = {
    "reference": (
        (
            "objective=ddpo",
            "sampling_steps=20",
            "window=null",
            "lora_rank=null",
            "clip_ratio=1.0e-4",
            "updates=4",
        ),
        (3e-5, 1e-4, 3e-4),
    ),
    "grpo": (("objective=grpo", "window=null"), (1e-3, 3e-3, 1e-2)),
    "windowed": (("objective=grpo", "window=3"), (1e-3, 3e-3, 1e-2)),
    "awm": (("objective=awm", "clip_ratio=1.0e-2"), (1e-3, 3e-3, 1e-2)),
}
"""Settings of ``ddpo`` beside the recipe tiny's, and learning rates to try."""
TUNING_SEED: Final = 1000
WORLD: Final = ("sunlit", 11)
TRAINED: Final = 64
"""Prompts to train on."""
IMAGES: Final = 4
"""Images of each held-out prompt."""
MEASURES: Final = 8
"""Measurements of a run, beside that of the untrained model."""
STEPS: Final = 20
DEPLOYED: Final = 3.0
"""Guidance of the deployment, measured at the end beside guidance 1."""


def main() -> int:
    """Run what is missing, print, plot, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/reward_per_cost"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--epochs", type=int, default=10, help="of the reference: its compute is the budget"
    )
    parser.add_argument("--held-out", type=int, default=16, help="prompts to measure on")
    parser.add_argument(
        "--rates",
        type=int,
        default=3,
        choices=(1, 2, 3),
        help="learning rates that each arm tries; one: no trials",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="4 images an epoch, one epoch, rate and seed: does the script work?",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="boig-cost-") as scratch:
        small: tuple[str, ...] = ()
        if args.smoke:
            # In a folder of its own: the names of files do not tell that an epoch was small, so
            # these would be taken for finished runs.
            args.home, args.seeds, args.epochs, args.held_out, args.rates = (
                Path(scratch),
                args.seeds[:1],
                1,
                2,
                1,
            )
            small = ("prompts=2", "images_per_prompt=2", "chunk=4", "micro_batch=4")
        args.home.mkdir(parents=True, exist_ok=True)
        runs = {arm: arm_runs(args, arm, small) for arm in args.arms}
        result = {"epochs": args.epochs, "runs": runs, **compare(runs)}
        plot(runs, args.home / "reward_per_cost.png")
        published.save(args.home / "reward_per_cost.json", result)
    print("\n".join(table(result)))
    if args.smoke:
        print("a smoke run: it works; the numbers and their verdicts say nothing")
        return 0
    return 0 if result["holds"] is not False else 1


def arm_runs(args: argparse.Namespace, arm: str, small: Sequence[str]) -> list[Run]:
    """Runs of an arm at the learning rate that its trials chose, one per seed."""
    rates = ARMS[arm][1][: args.rates]
    best = rates[0]
    if len(rates) > 1:
        trials = {rate: run_once(args, arm, rate, TUNING_SEED, small) for rate in rates}
        best = max(rates, key=lambda rate: final_reward(trials[rate]["points"]))
    return [run_once(args, arm, best, seed, small) for seed in args.seeds]


def run_once(
    args: argparse.Namespace, arm: str, rate: float, seed: int, small: Sequence[str]
) -> Run:
    """One training, or what its file says of it."""
    file = args.home / f"{arm}-{rate:g}-seed{seed}-epochs{args.epochs}-prompts{args.held_out}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    recipe = arm_recipe(arm, rate, seed, args.epochs, small)
    started = time.monotonic()
    run = {
        "arm": arm,
        "lr": rate,
        "seed": seed,
        "cost": cost(recipe.ddpo),
        **train(recipe, args.held_out),
    }
    print(
        f"{file.stem}: reward {run['points'][-1]['reward']:.3f}, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    # A file counts as a finished run, so it appears when it is whole.
    file.with_suffix(".part").write_text(json.dumps(run, indent=1))
    file.with_suffix(".part").replace(file)
    return run


def arm_recipe(arm: str, rate: float, seed: int, epochs: int, small: Sequence[str] = ()) -> Recipe:
    """The recipe of a run; an arm other than the reference has as many epochs as its share of the
    budget pays for."""
    settings = [
        f"seed={seed}",
        *(f"ddpo.{setting}" for setting in (*ARMS[arm][0], *small)),
        f"ddpo.lr={rate}",
    ]
    paid = epochs
    if arm != "reference":
        budget = epochs * cost(arm_recipe("reference", rate, seed, epochs, small).ddpo)
        paid = max(1, int(SHARE * budget / cost(load_recipe("tiny", settings).ddpo)))
    # One checkpoint, at the end: a run that is stopped begins anew in any case.
    return load_recipe("tiny", [*settings, f"ddpo.epochs={paid}", f"ddpo.checkpoint_every={paid}"])


def cost(config: DDPO) -> int:
    """Passes that an epoch takes, a backward pass as 2; guidance doubles each."""
    images = config.prompts * config.images_per_prompt
    trained = images * config.inner_epochs * len(epoch_steps(config, 0, 0, config.trained_steps))
    sampled = images * (config.sampling_steps + (config.draws if config.forward_process else 0))
    again = images * config.trained_steps if config.recompute_logprobs or config.ahead else 0
    anchor = trained if config.kl else 0
    # Guidance takes a second pass with the empty prompt; a trained step is a forward pass and a
    # backward one.
    return (2 if config.guidance > 1 else 1) * (sampled + again + anchor + 3 * trained)


class Warmth:
    """The share of warm pixels, as perception counts them."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """See `boig_core.diffusion.findings.Scorer`."""
        return np.array([tones["warm"] for tones in measure(images, 5, 0.04)[1]])


def prompts(held_out: int) -> tuple[list[Sample], list[Sample]]:
    """Posts to train on, and others with texts of their own."""
    law, seed = WORLD
    # By text, so that no held-out prompt is trained on; more posts than prompts, since texts come
    # again.
    texts = {
        post.record["text"]: post
        for post in draw_posts(4 * (TRAINED + held_out), seed, Law.load(law), 32)
    }
    samples = [
        Sample(
            p.record["id"],
            p.record["id"],
            p.brand,
            p.brand,
            p.record["timestamp"],
            text,
            (),
            1.0,
            95.0,
            "high",
            "train",
            "",
            32,
            32,
        )
        for text, p in list(texts.items())[: TRAINED + held_out]
    ]
    return samples[:TRAINED], samples[TRAINED:]


class Watched(LocalRollouts):
    """Rollouts that also measure the policy on held-out prompts every few epochs, and know how long
    that took."""

    def __init__(
        self, sampler: Sampler, held_out: Sequence[Sample], every: int, clip: ClipJudge
    ) -> None:
        super().__init__(sampler, Warmth())
        self.held_out, self.every, self.clip = held_out, every, clip
        self.spent_s: dict[int, float] = {}
        self.found: dict[int, Point] = {}

    def collect(
        self, adapter: Adapter, chunks: Sequence[RolloutChunk]
    ) -> list[tuple[Trajectory, NDArray[np.float64]]]:
        """See `boig_core.diffusion.rollout.Rollouts`."""
        # Before the epoch's own rollouts: the point at epoch n is the policy after n epochs of
        # updates.
        epoch, started = chunks[0].epoch, time.monotonic()
        if epoch % self.every == 0:
            self.found[epoch] = self.measured(adapter)
        self.spent_s[epoch] = time.monotonic() - started
        return super().collect(adapter, chunks)

    def measured(self, adapter: Adapter, guidance: float = 1.0) -> Point:
        """Reward, CLIP margin and diversity within a prompt of a policy on the held-out prompts."""
        self.sampler.load(adapter)
        texts = [sample.text for sample in self.held_out]
        asked = [text for text in texts for _ in range(IMAGES)]
        # The same noise at each measurement, so that points of a curve differ by the policy alone.
        images_BHWC = sample_images(
            self.sampler.pipe, asked, list(range(len(asked))), STEPS, guidance
        )
        embedding_BD = self.clip.see(images_BHWC).embedding_ND
        own_B, other_B = clip_scores(
            embedding_BD, self.clip.read(texts), np.arange(len(asked)) // IMAGES
        )
        return {
            "reward": float(Warmth().score(images_BHWC, []).mean()),
            "clip_margin": float((own_B - other_B).mean()),
            "diversity": diversity(embedding_BD.reshape(len(texts), IMAGES, -1)),
        }


def train(recipe: Recipe, held_out: int) -> dict[str, Any]:
    """Points of a training's curve, and what its last policy makes under the deployment's
    guidance."""
    trained, measured = prompts(held_out)
    watched = Watched(
        Sampler(recipe),
        measured,
        max(1, round(recipe.ddpo.epochs / MEASURES)),
        ClipJudge("package:clip-judge"),
    )
    seconds = [0.0]

    def report(epoch: int, row: dict[str, float]) -> None:
        # Measuring happens inside the rollouts and is no part of what the training costs.
        seconds.append(
            seconds[-1] + row["seconds_rollouts"] + row["seconds_update"] - watched.spent_s[epoch]
        )

    with tempfile.TemporaryDirectory(prefix="boig-cost-") as folder:
        adapter = Learner(recipe, trained, watched, Checkpoints(folder, 1), report).fit()
    watched.found[recipe.ddpo.epochs] = watched.measured(adapter)
    points = [
        {
            "epoch": epoch,
            "compute": epoch * cost(recipe.ddpo),
            "seconds": round(seconds[epoch], 2),
            **result,
        }
        for epoch, result in watched.found.items()
    ]
    return {"points": points, "deployed": watched.measured(adapter, DEPLOYED)}


if __name__ == "__main__":
    sys.exit(main())
