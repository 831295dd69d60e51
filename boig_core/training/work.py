"""What a training computes, and of what: by this its checkpoints are known, so that it goes on from
no other's.

Leaves out: fields that only say how and where it runs, which may change when it goes on, to
rounding; what happens before and after it; and the version of boig, which a checkpoint keeps beside
its work (see `checkpoint_marker`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from boig_core.config import Recipe
from boig_core.escapes import visible
from boig_core.storage.job import Stage

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

_NAMED: Final = 5
"""Differing fields that a line names, and how many letters of a value."""
_LETTERS: Final = 60


@dataclass(frozen=True)
class Work:
    """What a training computes.

    Attributes:
        fields: values that decide what it ends with, by their paths in the recipe.
        defaults: values of fields that a checkpoint of an older version does not have.
        recipe: digest of the whole recipe.
        base: the model that it begins with; None: random weights.
        data: digest of what it is trained on; asked for where no input has a digest.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    base: str | None = None
    data: Callable[[], str] = str

    def of(self, inputs: Mapping[str, str] | None) -> dict[str, Any]:
        """The fields with what is read, as JSON.

        Args:
            inputs: digest of each input by name; None: a training that has no job.
        """
        data = {"data": self.data()} if inputs is None else inputs
        read = {name if name == "data" else f"input {name}": each for name, each in data.items()}
        values: dict[str, Any] = json.loads(json.dumps({**self.fields, **read}))
        return values


def work_of(
    stage: Stage,
    recipe: Recipe,
    data: Callable[[], str],
    task: Mapping[str, Any] | None = None,
) -> Work:
    """What a training of a stage computes.

    Args:
        stage: which training.
        recipe: that it is trained by.
        data: digest of what it is trained on, see `digest`.
        task: what tells trainings of this stage apart, beside the recipe.
    """
    section = recipe.llm if stage is Stage.FINETUNE_LLM else recipe.sd
    fields = _fields(stage, recipe) | {f"task.{name}": each for name, each in (task or {}).items()}
    return Work(fields, _fields(stage, Recipe()), recipe.digest(), section.base, data)


def digest(rows: Iterable[Any]) -> str:
    """SHA-256 of rows of plain values or bytes: of data that no manifest has a digest of."""
    total = hashlib.sha256()
    for row in rows:
        # Each row hashed for itself, so that where one ends and the next begins counts.
        part = row if isinstance(row, bytes) else repr(row).encode(errors="surrogatepass")
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Each field by which two works differ, with both values.

    Args:
        before: fields of the one, as `Work.of` gives them.
        now: fields of the other.
        defaults: what stands for fields that ``before`` does not know, since an older version has
            written it; empty: the same version has.
    """
    then = {**_added(defaults, before), **before}
    names = sorted(name for name in {**then, **now} if then.get(name) != now.get(name))
    lines = [
        f"{name} was {_short(then.get(name))} and is {_short(now.get(name))}" for name in names
    ]
    more = len(lines) - _NAMED
    return [*lines[:_NAMED], *([f"{more} more"] if more > 0 else [])]


def _added(defaults: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the fields that came later: none below a section that was left out."""
    return {
        name: value
        for name, value in defaults.items()
        if not any(name.startswith(f"{known}.") for known in before)
    }


def _fields(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for path in READS[stage]:
        section, _, name = path.partition(".")
        value = getattr(recipe, section)
        fields |= _leaves(path, getattr(value, name) if name else value)
    for section in ("llm", "sd", "ddpo"):
        if section in READS[stage]:
            # Between nothing that is shared and something a checkpoint cannot change over.
            fields[f"{section}.zero_stage above 0"] = getattr(recipe, section).zero_stage > 0
    if stage is Stage.DDPO:
        # `perception.dtype: auto` follows it.
        fields["reward.resources.gpus above 0"] = recipe.scorer_resources.gpus > 0
    return fields


def _leaves(path: str, value: Any) -> dict[str, Any]:
    """The values of a section, or of a field, by their paths; without `PLACEMENT`."""
    if path in PLACEMENT:
        return {}
    if not isinstance(value, BaseModel):
        return {path: to_jsonable_python(value)}
    return {
        inner: leaf
        for name in type(value).model_fields
        for inner, leaf in _leaves(f"{path}.{name}", getattr(value, name)).items()
    }


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = visible(value if isinstance(value, str) else json.dumps(value))
    if re.fullmatch("[0-9a-f]{64}", text):  # a digest is known by its begin, as elsewhere
        return text[:12]
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
