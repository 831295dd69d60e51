"""How many prompts of an evaluation are longer than those read that sample and judge its images.

Rewritten prompts are longer than the posts' own texts, so each way of rewriting is counted by
itself. Leaves out: the counting (`boig_core.diffusion.prompt_cuts`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boig_core.diffusion.prompt_cuts import TOKENIZERS, Limited, PromptCuts, count_cuts
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.evaluation.measure.sampling_plan import Plan
from boig_core.observability.logs import get_logger
from boig_core.storage import manifest, paths

log = get_logger(__name__)

_READERS: Final = {
    "sampled": "evaluation's prompts",
    "retrieval": "prompts rewritten by retrieval",
    "boigllm": "prompts rewritten by BoigLLM",
    "clip": "prompts as the CLIP score reads them",
}


def count_evaluated(
    plan: Plan, model: str, clip: ClipJudge, scratch: Path
) -> dict[str, dict[str, float]]:
    """Counts by who reads: ``sampled`` and, of rewritten prompts, ``retrieval`` and ``boigllm`` by
    the sampled models; ``clip`` by the judge, which reads the posts' own texts alone.

    Args:
        plan: whose prompts are counted; what is cut is told in a line for each reader.
        model: committed ``sd`` output. All models of an evaluation have its tokenizers, those of
            the base, but a champion on another base.
        clip: the judge.
        scratch: folder for the tokenizers' files.
    """
    names = [sample.id for sample in plan.samples]
    texts = [sample.text for sample in plan.samples]
    tokenizers = _fetch_tokenizers(model, scratch)
    by_reader: dict[str, PromptCuts] = {"sampled": count_cuts(tokenizers, texts, names)}
    for way, rewritten in plan.rewritten.items():
        by_reader[way] = count_cuts(tokenizers, rewritten, names)
    by_reader["clip"] = clip.cuts(texts, names)
    for reader, cuts in by_reader.items():
        if cuts.cut:
            log.warning("%s: %s", _READERS[reader], cuts)
    return {reader: cuts.metrics for reader, cuts in by_reader.items()}


def _fetch_tokenizers(model: str, scratch: Path) -> list[Limited]:
    from transformers import CLIPTokenizer

    # The files of the tokenizers alone: the others are gigabytes.
    for entry in manifest.read_manifest(model, kind="sd").files:
        if entry.path.split("/")[0] in TOKENIZERS:
            manifest.fetch_file(model, entry, paths.below(scratch, entry.path))
    folders = [scratch / name for name in TOKENIZERS if (scratch / name).is_dir()]
    opened = [CLIPTokenizer.from_pretrained(folder) for folder in folders]
    return [(tokenizer, tokenizer.model_max_length) for tokenizer in opened]
