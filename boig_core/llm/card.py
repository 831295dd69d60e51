"""Model cards of what is published: what it is, what it reads and writes, how it was trained.
Short, and nothing that is not known."""

from __future__ import annotations

import json
from collections.abc import Mapping

from boig_core.config import Recipe


def predictor_card(recipe: Recipe, metrics: Mapping[str, float]) -> str:
    """Markdown for the README of an engagement predictor's folder; arguments as for
    `model_card`."""
    head = recipe.llm.predictor == "head"
    reads = (
        "the last hidden state over the square root of its width by a linear layer (`head.safetensors`), in units of 100"
        if head
        else "the number that it answers with"
    )
    return f"""---
library_name: transformers
---

# Engagement predictor of recipe `{recipe.name}`

It reads a post with the description of an image and predicts `{recipe.data.kpi}` as a percentile within the account, 0 to 100, from
{reads}. `boig_core.llm.predictor.load_predictor` opens the folder.

{_how(recipe)}

Intended use: comparing images for posts of the brands it was trained on. Training drew each post equally often, so that the mean of its
numbers is that of the posts. No promise of engagement.

## Training

```json
{json.dumps(dict(metrics), indent=1)}
```
"""


def _how(recipe: Recipe) -> str:
    llm = recipe.llm
    base = (
        f"`{llm.base}`"
        if llm.base
        else f"none: a Llama from scratch, {llm.layers} layers of width {llm.hidden}"
    )
    trained = (
        f"LoRA of rank {llm.lora_rank}, alpha {llm.lora_alpha:g}, merged into the base"
        if llm.lora_rank
        else "all weights"
    )
    return f"""* Base: {base}
* Trained: {trained}, {llm.dtype}, context {llm.context}, {llm.batch} samples per step, peak learning rate {llm.lr:g}
* Data: dataset `{recipe.data.name}`; the `manifest.json` of a published version names its digest and lineage"""


def model_card(recipe: Recipe, with_kpi: bool, metrics: Mapping[str, float]) -> str:
    """Markdown for the model folder's README.

    Args:
        recipe: that the model was trained by.
        with_kpi: whether its prompts told the KPI.
        metrics: of its training.
    """
    what = "BoigLLM" if with_kpi else "The no-KPI twin of BoigLLM"
    asks = f"the KPI to aim at ({recipe.data.kpi})" if with_kpi else "no KPI"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {what} of recipe `{recipe.name}`

It answers a prompt about a post with a description of its image as JSON: colors and tones with their coverage, objects with their boxes.
The prompt tells company, date, text, keywords, resolution and {asks}; `boig_core.verbalization` words prompts and reads answers.

{_how(recipe)}

Intended use: telling how an image that reaches a KPI looks, for the brands it was trained on, and scoring images by it. Not meant for
other brands or other questions. It repeats what its posts show, their biases included; its answers are no promise of engagement.

## Training

```json
{json.dumps(dict(metrics), indent=1)}
```
"""
