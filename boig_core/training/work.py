"""What a training computes, and of what: by this its checkpoints are known, so that it goes on from
no other's.

Leaves out: fields that only say how and where it runs, which may change when it goes on, to
rounding; and what happens before and after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from boig_core.config import Recipe
from boig_core.storage.job import Job, Stage
from boig_core.storage.stage import lineage_of

READS: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.FINETUNE_LLM: ("seed", "llm", "data.kpi"),
    Stage.FINETUNE_SD: ("seed", "sd"),
    Stage.DDPO: (
        "seed",
        "sd.base",
        "sd.resolution",
        "sd.dtype",
        "ddpo",
        "reward",
        "perception",
        "data.kpi",
        "llm.wording",
        "llm.source",
        "llm.more_kpis",
        "llm.context",
        "llm.max_new_tokens",
        "llm.constrained",
    ),
}
"""Sections and fields of the recipe that decide what a training ends with."""

PLACEMENT: Final = frozenset(
    {
        "llm.micro_batch",
        "llm.generate_batch",
        "llm.workers",
        "llm.at_once",
        "llm.zero_stage",
        "llm.offload",
        "llm.gradient_checkpointing",
        "llm.eval_posts",
        "llm.unconstrained_posts",
        "sd.workers",
        "sd.zero_stage",
        "sd.gradient_checkpointing",
        "sd.checkpoint_every",
        "ddpo.micro_batch",
        "ddpo.rollout_actors",
        "ddpo.rollout_resources",
        "ddpo.workers",
        "ddpo.worker_resources",
        "ddpo.placement_s",
        "ddpo.zero_stage",
        "ddpo.checkpoint_every",
        "reward.posts",
        "reward.min_auc",
        "reward.split",
        "reward.actors",
        "reward.resources",
        "reward.timeout_s",
        "perception.batch",
    }
)
"""Fields of these that say how and where it runs, or what is measured before and after it."""


def work_of(job: Job) -> str:
    """SHA-256 of a job's work: the same for each attempt at it.

    Inputs count by their content, as in lineage: a copy at another place is the same work.
    """
    return digest(job.stage, job.recipe, lineage_of(job).inputs)


def digest(stage: Stage, recipe: Recipe, inputs: Mapping[str, Any]) -> str:
    """As `work_of`, for a training that has no job."""
    # Without defaults: a field that a newer version adds must not make another work of a training
    # that is half done.
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    read = {path: _at(values, path) for path in READS[stage]}
    for section in ("llm", "sd", "ddpo"):
        if section in read:
            # Between nothing that is shared and something a checkpoint cannot change over.
            read[f"{section}.sharded"] = getattr(recipe, section).zero_stage > 0
    if stage is Stage.DDPO:
        # `perception.dtype: auto` follows it.
        read["reward.on_gpu"] = recipe.scorer_resources.gpus > 0
    told = {"stage": stage, "recipe": read, "inputs": dict(inputs)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _at(values: Mapping[str, Any], path: str) -> Any:
    """A section without `PLACEMENT`, or a field; None where it has its default."""
    section, _, field = path.partition(".")
    value = values.get(section)
    if field:
        return (value or {}).get(field)
    if not isinstance(value, dict):
        return value
    decides = {key: each for key, each in value.items() if f"{section}.{key}" not in PLACEMENT}
    return decides or None
