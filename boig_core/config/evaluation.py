"""Section ``evaluation``: what is measured on generators and on descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from boig_core.config.section import Section

Rewrite = Literal["retrieval", "boigllm"]
"""A way to rewrite prompts: by a high-KPI post's words, or by BoigLLM's own description."""


class FewShot(Section):
    """A general language model behind an OpenAI-compatible endpoint, shown examples of the training
    split."""

    base_url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    """Of the endpoint, up to where ``/chat/completions`` follows: ``https://HOST/v1``. Posts are
    sent there."""
    model: str = Field(min_length=1)
    """Name that the endpoint gives the model."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the stage's environment variable that holds the key, never the key itself; null: the
    endpoint needs no key."""
    shots: tuple[Annotated[int, Field(ge=1, le=30)], ...] = Field((3, 5), min_length=1)
    """Examples in the prompt; each number is a baseline of its own, the largest is the report's
    ``few_shot``."""
    posts: int = Field(50, ge=1)
    """Test posts per bucket that the model is asked about."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests that are open at the same time."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest time for one answer, in seconds."""
    attempts: int = Field(5, ge=1)
    """Attempts per request: one that ends in 429, 5xx or a lost connection is made again."""
    max_tokens: int = Field(600, ge=16)
    """Longest answer, in the endpoint's tokens."""


class Aesthetic(Section):
    """A score of looks: a head on the image embeddings of the CLIP that it was trained on, such as
    LAION's for ViT-L/14."""

    clip: str = Field(min_length=1)
    """That CLIP: a hub id or a folder."""
    head: str = Field(min_length=1)
    """Weights of the head, one linear layer or several: a file or store URI, safetensors or a torch
    state dict."""


class Evaluation(Section):
    """What evaluate_sd measures, paired by prompt and seed, and how evaluate_llm measures
    descriptions."""

    prompts: int = Field(50, ge=2)
    """Test prompts, as many from posts of each KPI bucket as there are."""
    images_per_prompt: int = Field(4, ge=2)
    """Images per prompt and model."""
    sampling_steps: int = Field(20, ge=2)
    """Deterministic denoising steps."""
    guidance: float = Field(3.0, ge=1)
    """Guidance as in deployment; base and BoigSD are also sampled without guidance."""
    clip: str = "package:clip-judge"
    """The CLIP that gives the CLIP score; it took no part in training."""
    features: str = "package:clip-judge"
    """Vision model whose features serve KID and FID."""
    judge: str | None = None
    """Held-out judge: ``adworld:LAW`` for the ad world's oracle; ``predictor`` for an engagement
    predictor that finetune_llm trains on the split ``judge`` alone; null: absent from the
    report."""
    best_of_n: int | None = Field(None, ge=2)
    """Also report best-of-N by the reward, over the images of the base and of BoigSD; null: it is
    absent."""
    rewrite: tuple[Rewrite, ...] = ()
    """Also report prompt rewriting, on the base and on BoigSD, one way or both. After the prompt
    stand, by ``retrieval``, the words of the nearest high-KPI training post, of the same account
    where it has one; by ``boigllm``, BoigLLM's description of a high-KPI image."""
    aesthetic: Aesthetic | None = None
    """What scores the looks of images; null: absent from the report."""
    fid_min: int = Field(1000, ge=2)
    """FID is reported only for at least this many images on each side; KID always is."""
    bootstrap: int = Field(1000, ge=100)
    """Resamples of each interval."""
    word_vectors: str | None = Field(None, pattern=r"^(spacy|hf):.+$")
    """What compares names of colors and objects: ``spacy:MODEL`` (the paper: spaCy), ``hf:ID`` for
    a sentence-embedding model by hub id or folder; null: hashed character n-grams, offline."""
    few_shot: FewShot | None = None
    """A general language model to compare BoigLLM with; null: absent from the report."""

    @field_validator("rewrite", mode="before")
    @classmethod
    def _one_or_both(cls, value: Any) -> Any:
        """One way needs no brackets."""
        return (value,) if isinstance(value, str) else value
