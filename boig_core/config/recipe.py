"""The Recipe: everything that decides what a run computes, and the rules between its sections."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field, model_validator

from boig_core.config.data import Data
from boig_core.config.ddpo import DDPO
from boig_core.config.evaluation import Evaluation
from boig_core.config.llm import LLM
from boig_core.config.perception import Perception
from boig_core.config.promotion import Promotion
from boig_core.config.resources import Resources
from boig_core.config.reward import Reward
from boig_core.config.sd import SD
from boig_core.config.section import Section


class Recipe(Section):
    """One run of the whole system: everything that decides what is computed. Sections follow the
    way of the data."""

    name: str = Field("custom", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name that runs and reports show. A recipe file that gives none takes the file's name."""
    seed: int = Field(0, ge=0)
    """Seed of everything random: the same seed, recipe and data give the same result on the same
    hardware. Change it to see what is chance."""
    data: Data = Data()
    """Which posts count, their KPI buckets and their splits."""
    perception: Perception = Perception()
    """How images are put into words."""
    llm: LLM = LLM()
    """BoigLLM: its training and how it answers."""
    reward: Reward = Reward()
    """What the alignment maximizes, and its calibration."""
    sd: SD = SD()
    """The diffusion model and its high-KPI baseline."""
    ddpo: DDPO = DDPO()
    """Alignment of the diffusion model with the reward."""
    evaluation: Evaluation = Evaluation()
    """What is measured on generators and on descriptions."""
    promotion: Promotion = Promotion()
    """Gates that a candidate passes before a person is asked."""
    resources: Resources = Resources()
    """What each process asks of the Ray cluster, unless a section says otherwise."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        unknown = [name for name in self.llm.more_kpis if name not in self.data.more_kpis]
        if unknown:
            raise ValueError(
                f"llm.more_kpis {unknown} must be among data.more_kpis {list(self.data.more_kpis)}"
            )
        if "engagement" in self.reward.weights and self.llm.predictor == "none":
            raise ValueError(
                "reward.weights name engagement, which needs a predictor: set llm.predictor to head or text"
            )
        if self.evaluation.judge == "predictor" and (
            self.llm.predictor == "none" or not self.data.judge
        ):
            raise ValueError(
                "evaluation.judge predictor needs posts and a kind: set data.judge above 0, and llm.predictor to head or text"
            )
        if self.ddpo.probe_every is not None and self.perception.clip == self.evaluation.clip:
            rule = "differ from evaluation.clip, which judges afterwards and takes no part in training, or ddpo.probe_every be null"
            raise ValueError(
                f"perception.clip {self.perception.clip}, which the probe of ddpo reads, must {rule}"
            )
        if self.ddpo.workers > 1 and 0 < self.worker_resources.gpus <= 0.5:
            raise ValueError(
                f"{self.ddpo.workers} ranks of {self.worker_resources.gpus:g} GPU may share one: ask for more than 0.5"
            )
        return self

    @property
    def llm_models(self) -> list[str]:
        """Models that behavior fine-tuning trains, in their order."""
        judge = ["judge"] if self.evaluation.judge == "predictor" else []
        return [
            "boigllm",
            "no_kpi",
            *(["predictor"] if self.llm.predictor != "none" else []),
            *judge,
        ]

    @property
    def llm_workers(self) -> int:
        """Worker processes of behavior fine-tuning at a time."""
        return self.llm.workers * min(self.llm.at_once, len(self.llm_models))

    @property
    def scorer_resources(self) -> Resources:
        """What a reward actor asks for."""
        return self.reward.resources or self.resources

    @property
    def rollout_resources(self) -> Resources:
        """What a rollout actor asks for."""
        return self.ddpo.rollout_resources or self.resources

    @property
    def worker_resources(self) -> Resources:
        """What a learner rank of ``ddpo`` asks for."""
        return self.ddpo.worker_resources or self.resources

    def digest(self) -> str:
        """SHA-256 of the resolved recipe as canonical JSON: 64 hex digits."""
        # Keys in order: a field that moves within the code changes no digest.
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()
