"""The Recipe, a file per section, and how it is loaded; the Policy of an installation's operator.

A recipe file holds only what differs from the defaults of the sections, or from the shipped recipe
that it names under ``extends``; `load_recipe` resolves it, and the resolved recipe is written
beside each run. What decides only *where* things run (store, cluster address, credentials) is not a
recipe's: it comes from the environment. Leaves out: reading data, and any import heavier than
pydantic and YAML.
"""

from boig_core.config.data import Column, Data, DateOrder, DecimalSign, ImageFormat, SplitBy
from boig_core.config.ddpo import DDPO
from boig_core.config.evaluation import Aesthetic, Evaluation, FewShot, Rewrite
from boig_core.config.llm import LLM, Pattern
from boig_core.config.loading import is_recipe_file, load_recipe, parse_recipe, recipe_names
from boig_core.config.monitors import (
    Action,
    Collapse,
    Fall,
    Monitors,
    Plateau,
)
from boig_core.config.perception import Perception
from boig_core.config.policy import Policy, load_policy, read_policy
from boig_core.config.promotion import Promotion
from boig_core.config.recipe import Recipe
from boig_core.config.resources import Resources
from boig_core.config.reward import Reward, RewardName
from boig_core.config.sd import SD

__all__ = [
    "DDPO",
    "LLM",
    "SD",
    "Action",
    "Aesthetic",
    "Collapse",
    "Column",
    "Data",
    "DateOrder",
    "DecimalSign",
    "Evaluation",
    "Fall",
    "FewShot",
    "ImageFormat",
    "Monitors",
    "Pattern",
    "Perception",
    "Plateau",
    "Policy",
    "Promotion",
    "Recipe",
    "Resources",
    "Reward",
    "RewardName",
    "Rewrite",
    "SplitBy",
    "is_recipe_file",
    "load_policy",
    "load_recipe",
    "parse_recipe",
    "read_policy",
    "recipe_names",
]
