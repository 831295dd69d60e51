"""Model cards of published generators: what a folder holds, and how programs open it. Short, and
nothing that is not known."""

from __future__ import annotations

import json
from collections.abc import Mapping

from boig_core.diffusion.lora import LORA_FILE


def sd_card(title: str, base: str, lora_rank: int | None, meta: Mapping[str, object]) -> str:
    """Markdown for the README of a published generator.

    Args:
        title: what it is called.
        base: its base model, as the recipe names it.
        lora_rank: of the LoRA that was trained; None: all weights of the UNet were.
        meta: of its manifest.
    """
    trained = "all weights of the UNet" if lora_rank is None else f"a LoRA of rank {lora_rank}"
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
---

# {title}

* Base: `{base}`
* Trained: {trained}; the `manifest.json` of a published version names data and lineage

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("this-folder")
```
{_alone(title) if lora_rank is not None else ""}
Intended use: images for posts of the brands it was trained on. No promise of engagement.

## Training

```json
{json.dumps(dict(meta), indent=1)}
```
"""


def _alone(title: str) -> str:
    return f"""
The LoRA alone, `lora/{LORA_FILE}`, changes its base model and others of its family, at strength 1 as it was trained:

* diffusers: `pipe.load_lora_weights("this-folder/lora")` on a pipeline of the base
* ComfyUI: copy it to `models/loras/{title}.safetensors`; a node "Load LoRA" offers it
* AUTOMATIC1111 and Forge: copy it to `models/Lora/{title}.safetensors`; `<lora:{title}:1>` in the prompt loads it
"""
