"""Behavior fine-tuning on one machine, without Ray: ``torchrun --nproc-per-node 2 -m boig_core.llm
RECIPE DATASET OUT``.

The same loop as in the stage, fed by hand. ``OUT`` receives the model folder, ``metrics.jsonl``,
``deepspeed.json``, ``recipe.json`` and checkpoints; a run that starts again with the same ``OUT``
continues from the newest one, and is refused if recipe or dataset is another. Leaves out:
manifests and commits, which are a stage's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from boig_core.config import load_recipe
from boig_core.errors import BoigError, RecipeError
from boig_core.observability.logs import configure_logging

if TYPE_CHECKING:  # it takes long to import, and --help needs none of it
    from boig_core.observability.metrics import MetricLog


def main() -> int:
    """Train one model; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="torchrun -m boig_core.llm", description="Behavior fine-tuning without Ray."
    )
    parser.add_argument("recipe", help="a recipe by name, or a YAML file")
    parser.add_argument("dataset", help="URI of a perceived dataset's version")
    parser.add_argument("out", type=Path, help="folder for the model, its metrics and checkpoints")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="override a field of the recipe",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--no-kpi", action="store_true", help="train the twin whose prompts tell no KPI"
    )
    other.add_argument(
        "--predictor",
        action="store_true",
        help="train the engagement predictor that llm.predictor asks for",
    )
    args = parser.parse_args()
    configure_logging()
    try:
        _train(
            args.recipe,
            args.set,
            args.dataset,
            args.out,
            with_kpi=not args.no_kpi,
            predictor=args.predictor,
        )
    except BoigError as exc:
        print(exc, file=sys.stderr)
        return 2 if exc.is_user_error else 1
    return 0


def _train(
    recipe_name: str,
    overrides: list[str],
    dataset: str,
    out: Path,
    *,
    with_kpi: bool,
    predictor: bool,
) -> None:
    # Imported here, so that --help and a wrong argument need not wait for torch.
    import torch.distributed as dist

    from boig_core.data.dataset import read_samples
    from boig_core.llm.finetune import export, train
    from boig_core.llm.predictor import Rating
    from boig_core.llm.task import Describing
    from boig_core.storage.manifest import verify
    from boig_core.training import preemption
    from boig_core.training.checkpoint import Checkpoints
    from boig_core.training.engine import Engine, init_process_group
    from boig_core.training.ranks import rank

    recipe = load_recipe(recipe_name, overrides)
    if predictor and recipe.llm.predictor == "none":
        raise RecipeError(
            "--predictor", "needs a recipe that trains one", "add --set llm.predictor=head or text"
        )
    task = Rating(recipe) if predictor else Describing(recipe, with_kpi)
    init_process_group()
    preemption.listen()
    content = verify(dataset, kind="dataset")
    out.mkdir(parents=True, exist_ok=True)
    curve = _open_curve(out) if rank() == 0 else None

    def started(engine: Engine) -> None:
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=1), "utf-8")
        (out / "deepspeed.json").write_text(json.dumps(engine.settings, indent=1), "utf-8")

    def report(step: int, values: dict[str, float]) -> None:
        if curve is not None:
            curve.log(step, **values)

    checkpoints = Checkpoints(str(out), attempt=1, inputs={"dataset": content.digest()})
    samples = read_samples(dataset)
    try:
        trained = train(
            samples, recipe, task, checkpoints=checkpoints, report=report, started=started
        )
    finally:
        # Rows are written every few seconds: the last ones are wanted most where it failed.
        if curve is not None and curve.rows:
            curve.close()
    export(trained, out / "model")
    if curve is not None:
        print(json.dumps(trained.metrics))
    dist.destroy_process_group()


def _open_curve(out: Path) -> MetricLog:
    """The rows of ``metrics.jsonl``; a run that starts again goes on with those that it has."""
    from boig_core.observability.metrics import MetricLog
    from boig_core.storage import store

    uri = store.join(str(out), "metrics.jsonl")
    earlier = store.read_bytes(uri) if store.exists(uri) else b""
    return MetricLog(
        lambda data: store.write_bytes(uri, data),
        experiment="boigllm",
        run=out.name,
        earlier=earlier,
    )


if __name__ == "__main__":
    sys.exit(main())
