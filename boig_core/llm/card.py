"""The model card of a published BoigLLM: what it is, what it reads and writes, how it was trained. Short, and nothing that is not known."""

from __future__ import annotations

import json
from collections.abc import Mapping

from boig_core.config import Recipe


def model_card(recipe: Recipe, with_kpi: bool, metrics: Mapping[str, float]) -> str:
    """Markdown for the model folder's README.

    Args:
        recipe: that the model was trained by.
        with_kpi: whether its prompts told the KPI.
        metrics: of its training.
    """
    llm = recipe.llm
    what = "BoigLLM" if with_kpi else "The no-KPI twin of BoigLLM"
    base = f"`{llm.base}`" if llm.base else f"none: a Llama from scratch, {llm.layers} layers of width {llm.hidden}"
    trained = f"LoRA of rank {llm.lora_rank}, alpha {llm.lora_alpha:g}, merged into the base" if llm.lora_rank else "all weights"
    asks = f"the KPI to aim at ({recipe.data.kpi})" if with_kpi else "no KPI"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {what} of recipe `{recipe.name}`

It answers a prompt about a post with a description of its image as JSON: colors and tones with their coverage, objects with their boxes.
The prompt tells company, date, text, keywords, resolution and {asks}; `boig_core.verbalization` words prompts and reads answers.

* Base: {base}
* Trained: {trained}, {llm.dtype}, context {llm.context}, {llm.batch} samples a step, peak learning rate {llm.lr:g}
* Data: dataset `{recipe.data.name}`; the `manifest.json` of a published version names its digest and lineage

Intended use: telling how an image that reaches a KPI looks, for the brands it was trained on, and scoring images by it. Not meant for
other brands or other questions. It repeats what its posts show, their biases included; its answers are no promise of engagement.

## Training

```json
{json.dumps(dict(metrics), indent=1)}
```
"""
