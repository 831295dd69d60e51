"""The Policy: what the operator of an installation allows, whatever a recipe or a param asks for.

A recipe says what a team wants; who may edit it must not decide which files, hosts and secrets a
run can reach, or how low the gates of a promotion are. That stands in one YAML file, which
``BOIG_POLICY`` names for Airflow and Ray alike. Without one the strict default holds: models of the
package, posts of the store, no endpoint, the recipe's own default gates.

Leaves out: where an image of a post may lie (see `boig_core.data.fetching.reach`) and who answers
an approval (see `boig_core.orchestration.promotion`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from boig_core import environment
from boig_core.config.loading import first_error
from boig_core.config.locations import canonical, is_below
from boig_core.config.monitors import Monitor
from boig_core.config.recipe import Recipe
from boig_core.config.section import Fraction, Kind, Section, references
from boig_core.errors import InputError, PolicyError

Place = Annotated[str, Field(min_length=1, max_length=4096)]
_UNSET: Final = f"the strict default ({environment.POLICY.name} is not set)"


class Gates(Section):
    """Floors of the promotion's gates: a recipe may ask for more, never for less."""

    min_reward_gain: float | None = 0.0
    """Least ``promotion.min_reward_gain``. null: any."""
    min_judge_gain: float | None = None
    """Least ``promotion.min_judge_gain``, which then may not be null. null: any, or none, as for a
    brand whose posts leave no judge over."""
    min_champion_gain: float | None = None
    """Least ``promotion.min_champion_gain``, which then may not be null. null: any, or none."""
    min_clip_margin: Fraction = Field(0.9, ge=0)
    """Least ``promotion.min_clip_margin``. 0: any."""
    min_diversity: Fraction = Field(0.5, ge=0)
    """Least ``promotion.min_diversity``. 0: any."""
    max_fid: float | None = Field(2.0, gt=0)
    """Largest ``promotion.max_fid``, which then may not be null. null: any, or none."""
    min_auc: Fraction | None = Field(0.5, ge=0, lt=1)
    """Least ``reward.min_auc``, which then may not be null. null: any, or none."""
    silent: tuple[Monitor, ...] = ("fall", "drift", "overoptimization")
    """Monitors that ``promotion.silent`` must name."""


class Approver(Section):
    """A person as Airflow's auth manager knows them."""

    id: str = Field(min_length=1)
    """Id of the user; with Airflow's simple auth manager, the user's name."""
    name: str = Field(min_length=1)
    """Name of the user there, under which Airflow keeps who triggered a run; with the simple auth
    manager the same as the id."""


class Ceilings(Section):
    """The most that a run may take."""

    images_per_run: int | None = Field(None, ge=1)
    """Images that one run of `boig_sd` may generate, in its alignment and its evaluation. null: any
    number."""
    gpu_hours_per_run: float | None = Field(None, gt=0)
    """GPU-hours after which a run starts no further stage. null: any number."""
    gpu_hours_per_month: float | None = Field(None, gt=0)
    """GPU-hours of all runs of a calendar month (UTC) after which no run and no stage starts. null:
    any number."""


class Policy(Section):
    """What the operator of an installation allows. Roots are folders or ``s3://BUCKET/PREFIX``;
    what lies below one is allowed, after links and ``..`` are resolved."""

    posts: tuple[Place, ...] = ()
    """Roots of exports of posts, beside the store; also ``https://HOST/PATH``."""
    images: tuple[Place, ...] = ()
    """Roots of images that posts name, beside the folder or prefix of the export itself."""
    recipes: tuple[Place, ...] = ()
    """Roots of recipe files and of laws of the ad world, beside the package and the store."""
    outputs: tuple[Place, ...] = ()
    """Roots of other stores whose datasets and models a run may take as inputs. A promotion takes
    none of them."""
    models: tuple[Place, ...] = ()
    """Where base models may come from, beside the package: roots, ``hub:ORG/NAME`` or ``hub:ORG/``
    of the Hugging Face hub, ``spacy:NAME``."""
    endpoints: dict[Place, Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None] = (
        Field(default_factory=dict)
    )
    """Addresses of outside services, such as ``https://HOST/v1``, each with the one environment
    variable that holds its key; null: it needs none. What lies below an address is allowed."""
    runtime_envs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Ray runtime environments by the name under which ``reward.runtime_env`` asks for one, such as
    ``spacy: {pip: [spacy==3.8.7]}``. No place for secrets: Ray shows them."""
    gates: Gates = Gates()
    """Floors of the promotion's gates."""
    approvers: tuple[Approver, ...] = ()
    """Who may approve a promotion. Empty: nobody, so nothing is promoted."""
    ceilings: Ceilings = Ceilings()
    """The most that a run may take."""

    _source: str = PrivateAttr(_UNSET)
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @field_validator("posts", "images", "recipes", "outputs", "models", "endpoints")
    @classmethod
    def _named(cls, places: Any) -> Any:
        for place in places:
            if not place.startswith(("hub:", "spacy:")) and canonical(place) is None:
                raise ValueError(f"{place!r} must be a folder, s3://BUCKET/PREFIX or https://HOST")
        return places

    def digest(self) -> str:
        """SHA-256 of the policy as canonical JSON: 64 hex digits. Comments and order of the file do
        not count."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()

    @property
    def source(self) -> str:
        """Path of the file, or that there is none."""
        return self._source

    def line(self, field: str) -> str:
        """Where a field stands: ``FILE:LINE (field)``, for errors."""
        # The nearest field above it that the file names: what it leaves out has no line.
        parts = field.split(".")
        known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        number = next((self._lines[name] for name in known if name in self._lines), None)
        if self._source == _UNSET:
            return f"the strict default of {field} ({environment.POLICY.name} is not set)"
        return f"{self._source}{'' if number is None else f':{number}'} ({field})"

    def require_location(self, uri: str, field: str, *beside: str) -> None:
        """Check that a location lies below one of a field's roots, or of those named beside them.

        Raises:
            PolicyError: it lies below none.
        """
        if not is_below(uri, (*beside, *getattr(self, field))):
            raise PolicyError(
                uri,
                f"lies below no root that {self.line(field)} names",
                f"copy it there, or have the operator add its root to {field} of the policy",
            )

    def key_variable(self, url: str) -> str | None:
        """Name of the variable that holds the key of an endpoint; None: it needs no key.

        Raises:
            PolicyError: the endpoint is not among those that are allowed.
        """
        # The longest first: an address may stand below another that has another key.
        for place in sorted(self.endpoints, key=len, reverse=True):
            if is_below(url, [place]):
                return self.endpoints[place]
        raise PolicyError(
            url,
            f"is no endpoint that {self.line('endpoints')} names",
            "have the operator add it to endpoints of the policy, with the variable of its key",
        )

    def runtime_env(self, name: str | None) -> dict[str, Any]:
        """A runtime environment by its name; None: an empty one.

        Raises:
            PolicyError: there is none of this name.
        """
        if name is not None and name not in self.runtime_envs:
            raise PolicyError(
                f"runtime environment {name!r}",
                f"is none that {self.line('runtime_envs')} names",
                "have the operator add it to runtime_envs of the policy, or leave it out",
            )
        return {} if name is None else self.runtime_envs[name]

    def refusals(self, recipe: Recipe, store: str) -> Iterator[PolicyError]:
        """Everything that a recipe asks for and the policy does not allow, in the recipe's order.

        Args:
            recipe: the resolved recipe.
            store: root of the store, whose own models and laws it may name.
        """
        for field, value, kind in references(recipe):
            try:
                self._check(str(value), kind, store)
            except PolicyError as exc:
                yield PolicyError(f"{field} = {value!r}", exc.rule, exc.remedy)
        yield from self._low_gates(recipe)
        images = images_of_run(recipe)
        most = self.ceilings.images_per_run
        if most is not None and images > most:
            yield PolicyError(
                f"{images:,} images a run",
                f"are more than {most:,}, which {self.line('ceilings.images_per_run')} allows",
                "lower ddpo.epochs, ddpo.prompts, ddpo.images_per_prompt or those of evaluation",
            )

    def require(self, recipe: Recipe, store: str) -> None:
        """Check a whole recipe; arguments as of `refusals`.

        Raises:
            PolicyError: the first thing that it asks for and the policy does not allow.
        """
        for refusal in self.refusals(recipe, store):
            raise refusal

    def _check(self, value: str, kind: Kind, store: str) -> None:
        if kind == "endpoint":
            self.key_variable(value)
        elif kind == "runtime_env":
            self.runtime_env(value)
        elif kind == "law":
            # A law by its name ships with the package, or is drawn; anything else is a file.
            law = value.removeprefix("adworld:")
            own = law.isidentifier() or re.fullmatch(r"random:\d+", law)
            if value.startswith("adworld:") and not own:
                self.require_location(law, "recipes", store)
        elif not self._allows_model(value, store):
            raise PolicyError(
                value,
                f"is no model that {self.line('models')} allows",
                "have the operator add its folder, hub:ORG/NAME or spacy:NAME to models of the policy",
            )

    def _allows_model(self, reference: str, store: str) -> bool:
        if reference.startswith("package:") or reference in self.models:
            return True
        name = reference.removeprefix("hf:")
        # As `boig_core.models.resolve_model` tells them apart: a folder comes before a hub id.
        if name.startswith(("/", ".", "~", "s3://")) or name.count("/") > 1 or os.path.exists(name):
            folders = [place for place in self.models if not place.startswith(("hub:", "spacy:"))]
            return is_below(name, [store, *folders])
        hub = [place.removeprefix("hub:") for place in self.models if place.startswith("hub:")]
        return not name.startswith("spacy:") and any(
            name == place or (place.endswith("/") and name.startswith(place)) for place in hub
        )

    def _low_gates(self, recipe: Recipe) -> Iterator[PolicyError]:
        """Gates of a recipe that ask for less than their floor."""
        floors, asked = self.gates, recipe.promotion
        values = {**asked.model_dump(), "min_auc": recipe.reward.min_auc}
        for name, floor in floors:
            value = values[name]
            if name == "silent":
                short = not set(floor) <= set(value)
            elif name == "max_fid":
                short = floor is not None and (value is None or value > floor)
            else:
                short = floor is not None and (value is None or value < floor)
            if short:
                section = "reward" if name == "min_auc" else "promotion"
                shown = list(floor) if name == "silent" else floor
                yield PolicyError(
                    f"{section}.{name} = {list(value) if name == 'silent' else value}",
                    f"asks for less than {shown}, the floor that {self.line(f'gates.{name}')} sets",
                    "ask for as much, or have the operator lower the floor",
                )


def images_of_run(recipe: Recipe) -> int:
    """Images that a run of `boig_sd` generates at least: in its alignment, and of base, baseline
    and BoigSD in its evaluation."""
    ddpo, evaluation = recipe.ddpo, recipe.evaluation
    aligned = ddpo.epochs * ddpo.prompts * ddpo.images_per_prompt
    return aligned + 3 * evaluation.prompts * evaluation.images_per_prompt


def load_policy() -> Policy:
    """The policy of this installation: the file that ``BOIG_POLICY`` names, else the strict
    default.

    Raises:
        InputError: the file cannot be read, or a field of it is wrong; nothing is allowed then.
    """
    named = environment.POLICY.read()
    return Policy() if named is None else read_policy(Path(named))


def read_policy(path: Path) -> Policy:
    """A policy from its file.

    Raises:
        InputError: naming the field that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(
            f"policy {path}", f"cannot be read ({exc})", f"see {environment.POLICY.name}"
        ) from exc
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        rule = "is not valid YAML"
        raise InputError(f"policy {path}", rule, " ".join(str(exc).split())) from exc
    if not isinstance(tree, Mapping):
        raise InputError(f"policy {path}", "must be a mapping", "see docs/operate/security.md")
    lines = dict(_lines_of(root, str(path)))
    try:
        policy = Policy.model_validate(tree)
    except ValidationError as exc:
        error = first_error(exc, Policy, "docs/operate/security.md names every field")
        raise InputError(f"policy {path}: {error.value}", error.rule, error.remedy) from None
    policy._source, policy._lines = str(path), lines
    return policy


def _lines_of(node: Any, path: str, above: str = "") -> Iterator[tuple[str, int]]:
    """Line of each key, from 1, by its dotted name.

    Raises:
        InputError: a key stands twice; YAML would take the second in silence.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    names: set[str] = set()
    for key, value in node.value:
        name = f"{above}{key.value}"
        if name in names:
            raise InputError(
                f"policy {path}:{key.start_mark.line + 1}", f"{name} stands twice", "keep one"
            )
        names.add(name)
        yield name, key.start_mark.line + 1
        yield from _lines_of(value, path, f"{name}.")
