"""Does it work beyond one seed and one audience? Both laws, three training seeds each, every seed shown.

Runs the real stages one after the other with ``boig_core.demo.stage`` on the Ray cluster of ``RAY_ADDRESS`` (or one of its own):
per law the ad world, ingest, perceive and the high-KPI baseline once; per training seed BoigLLM with its twin, calibration, alignment and
evaluation. The reward's AUC on real test images stands beside that of the law's own oracle on the same images. What is finished is never
done again, so the script can be stopped and started. Writes ``evidence-LAW.json``; prints one table.

    python infra/evidence/both_laws.py --home .boig/evidence [--laws sunlit nordic] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from reward_worth import oracle_row
from stages import WORLD_SEED, Stages, arguments, export

from boig_core.adworld.ceiling import ceilings
from boig_core.adworld.law import Law
from boig_core.storage import store


def main() -> None:
    """Run what is missing, then print every seed."""
    parser = arguments(__doc__)
    args = parser.parse_args()
    for law in args.laws:
        found = law_results(args, law)
        (args.home / f"evidence-{law}.json").write_text(json.dumps(found, indent=1))
        print("\n".join(table(law, found)), flush=True)


def law_results(args: argparse.Namespace, law: str) -> dict[str, Any]:
    """Ceiling and per-seed results of one law."""
    world = export(args.home, law, args.posts)
    stages = Stages(str(args.home / "store"), law)
    raw = stages.run("ingest", "data", WORLD_SEED, {"posts": str(world / "posts.jsonl")})
    dataset = {"dataset": stages.run("perceive", "data", WORLD_SEED, raw)["dataset"]}
    high_kpi = stages.run("finetune_sd", "data", WORLD_SEED, dataset)
    seeds = {seed: seed_results(stages, seed, dataset, high_kpi) for seed in args.seeds}
    return {"ceiling": {bucket: round(found.gain, 4) for bucket, found in ceilings(Law.load(law)).items()}, "seeds": seeds}


def seed_results(stages: Stages, seed: int, dataset: dict[str, str], high_kpi: dict[str, str]) -> dict[str, Any]:
    """Paired differences of one training seed, and what the aligned model kept of the base."""
    run = f"seed-{seed}"
    models = stages.run("finetune_llm", run, seed, dataset)
    described = stages.run("evaluate_llm", run, seed, {**dataset, **models})
    inputs = {**dataset, "boigllm": models["boigllm"]}
    inputs |= stages.run("calibrate", run, seed, inputs)
    boigsd = stages.run("ddpo", run, seed, inputs)
    generated = stages.run("evaluate_sd", run, seed, {**inputs, **high_kpi, **boigsd})
    description = json.loads(store.read_bytes(store.join(described["description"], "description.json")))
    generation = json.loads(store.read_bytes(store.join(generated["generation"], "generation.json")))
    calibration = json.loads(store.read_bytes(store.join(inputs["calibration"], "calibration.json")))
    base, aligned = (generation["generation"][model] for model in ("base", "boigsd"))
    return {
        "colors_iou": description["paired"]["boigllm-no_kpi"]["colors_iou"],
        "boigsd-base": generation["paired"]["boigsd-base"],
        "reward_auc": reward_against_oracle(calibration, stages.law, dataset["dataset"], stages.overrides(seed)),
        "kept": {name: aligned[name] / base[name] for name in ("clip_margin", "diversity")},
        "generation": generation["generation"],
    }


def reward_against_oracle(calibration: dict[str, Any], law: str, dataset: str, overrides: list[str]) -> dict[str, Any]:
    """AUC of the reward and of the law's oracle on the same test images, and how much of the oracle's AUC above chance the reward has."""
    found = {"oracle": oracle_row(law, dataset, overrides), "reward": calibration["splits"]["test"][calibration["reward"]]}
    above = {who: row["auc_high_vs_low"] - 0.5 for who, row in found.items()}
    spans = {who: {key: row[key] for key in ("auc_high_vs_low", "auc_interval", "n")} for who, row in found.items()}
    return {**spans, "share_of_oracle": above["reward"] / above["oracle"]}


def table(law: str, found: dict[str, Any]) -> list[str]:
    """One line a seed: mean and 95 % interval of each paired difference, and the shares kept."""
    ceiling = found["ceiling"]
    lines = [f"{law}: the law's own ceiling of the colors IOU gain is {ceiling['high']} for high, {ceiling['low']} for low"]
    for seed, row in found["seeds"].items():
        spans = {bucket: row["colors_iou"][bucket] for bucket in ("high", "low")} | {
            name: row["boigsd-base"][name] for name in ("reward", "judge")
        }
        cells = [f"{name} {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] n={d['n']}" for name, d in spans.items()]
        cells += [f"{name} kept {share:.0%}" for name, share in row["kept"].items()]
        ours, oracle = row["reward_auc"]["reward"], row["reward_auc"]["oracle"]
        low, high = ours["auc_interval"]
        cells.append(f"AUC of the reward {ours['auc_high_vs_low']:.3f} [{low:.3f}, {high:.3f}] n={ours['n']}")
        cells.append(f"of the oracle {oracle['auc_high_vs_low']:.3f}; share above chance {row['reward_auc']['share_of_oracle']:.2f}")
        lines.append(f"  seed {seed}: " + " · ".join(cells))
    return lines


if __name__ == "__main__":
    main()
