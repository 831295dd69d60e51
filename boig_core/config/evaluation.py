"""Section ``evaluation``: what is measured on generators and on descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from boig_core.config.section import Names, Section

Rewrite = Literal["retrieval", "boigllm"]
"""A way to rewrite prompts: by a high-KPI post's words, or by BoigLLM's own description."""


class FewShot(Section):
    """A general language model behind an OpenAI-compatible endpoint, which is shown examples of the
    training split."""

    base_url: Annotated[str, Names("endpoint")] = Field(pattern=r"^https?://[^\s?#@]+$")
    """Address of the endpoint, up to where ``/chat/completions`` follows: ``https://HOST/v1``.
    Posts are sent there. The installation's policy must list it, with the variable that holds its
    key."""
    model: str = Field(min_length=1)
    """Name that the endpoint gives the model."""
    shots: tuple[Annotated[int, Field(ge=1, le=30)], ...] = Field((3, 5), min_length=1)
    """Examples in a prompt. Each number makes a baseline of its own; the largest is the report's
    ``few_shot``."""
    posts: int = Field(50, ge=1)
    """Test posts per KPI bucket that the model is asked about, at most ``llm.eval_posts``. Each
    costs a request for each of the ``shots``."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests that are open at the same time. Lower it where the endpoint limits its callers."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest wait for one answer, in seconds; the request then counts as lost."""
    attempts: int = Field(5, ge=1)
    """Attempts per request: one that ends in 429, 5xx or a lost connection is made again."""
    max_tokens: int = Field(600, ge=16)
    """Longest answer, in tokens as the endpoint counts them."""


class Aesthetic(Section):
    """A score of looks: a head on the image embeddings of the CLIP that it was trained on, such as
    LAION's for ViT-L/14."""

    clip: Annotated[str, Names("model")] = Field(min_length=1)
    """The CLIP that the head was trained on: a hub id or a folder."""
    head: Annotated[str, Names("model")] = Field(min_length=1)
    """Weights of the head, one linear layer or several: a file or store URI, safetensors or a torch
    state dict."""


class Evaluation(Section):
    """What ``evaluate_sd`` measures on generated images, paired by prompt and noise, and how
    ``evaluate_llm`` measures descriptions."""

    prompts: int = Field(50, ge=2)
    """Test posts whose texts are the prompts, as many from each KPI bucket as there are. More give
    narrower intervals and take longer."""
    images_per_prompt: int = Field(4, ge=2)
    """Images per prompt and model."""
    sampling_steps: int = Field(20, ge=2)
    """Denoising steps of an image, all of them deterministic."""
    guidance: float = Field(3.0, ge=1)
    """Strength of classifier-free guidance: take that of your deployment."""
    unguided: bool = True
    """Also report base and BoigSD without guidance, as an alignment usually samples: half of the
    UNet's passes. Turn it off to save the time of these two rows."""
    clip: Annotated[str, Names("model")] = "package:clip-judge"
    """The CLIP that gives CLIP score, diversity and novelty: a hub id, a folder, or
    ``package:NAME``. Name one that took no part in training."""
    features: Annotated[str, Names("model")] = "package:clip-judge"
    """The CLIP whose image features serve KID and FID: a hub id, a folder, or ``package:NAME``."""
    judge: Annotated[str | None, Names("law")] = Field(None, pattern=r"^(predictor|adworld:.+)$")
    """Held-out judge of the KPI: ``predictor``, an engagement predictor that learns from the split
    ``judge`` alone; or ``adworld:LAW``, the ad world's own law. null: there is none; the promotion
    gates that ask a judge must then be null, too."""
    best_of_n: int | None = Field(None, ge=2)
    """Also report best-of-N, on the base and on BoigSD: of so many images of a prompt the one with
    the highest reward. At most ``images_per_prompt``; null: absent from the report."""
    rewrite: tuple[Rewrite, ...] = ()
    """Also report rewritten prompts, on the base and on BoigSD. After the prompt follow, by
    ``retrieval``, the words of a similar high-KPI training post, of the same account where it has
    one; by ``boigllm``, BoigLLM's description of a high-KPI image. Empty: neither."""
    aesthetic: Aesthetic | None = None
    """What scores the looks of images. null: absent from the report."""
    fid_min: int = Field(1000, ge=2)
    """Smallest number of images on each side for which FID is reported: generated ones, and half of
    the held-out real ones. KID needs no such number."""
    bootstrap: int = Field(1000, ge=100)
    """Random resamples by which each 95 % interval is computed. More make its ends steadier and
    take longer."""
    word_vectors: Annotated[str | None, Names("model")] = Field(None, pattern=r"^(spacy|hf):.+$")
    """What compares names of colors and objects by their meaning: ``spacy:MODEL``, as in the paper,
    or ``hf:ID`` for a sentence-embedding model (a hub id or a folder). null: they are compared by
    their spelling, without any model."""
    few_shot: FewShot | None = None
    """A general language model to compare BoigLLM with. null: absent from the report."""

    @field_validator("rewrite", mode="before")
    @classmethod
    def _one_or_both(cls, value: Any) -> Any:
        """One way needs no brackets."""
        return (value,) if isinstance(value, str) else value
