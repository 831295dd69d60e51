"""A rehearsal among ranks, and what they publish of partitioned weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from boig_core.errors import RecipeError
from boig_core.llm.finetune import export, finetune
from boig_core.training.engine import init_process_group
from boig_core.training.ranks import rank
from boig_core.vocabulary import Sample
from tests.processes import run_ranks
from tests.unit.llm.architectures import save_base, small
from tests.unit.llm.conftest import _make
from tests.unit.llm.test_publish import answers_logprobs, open_plainly


def walk_and_train(samples: list[Sample], base: str, folder: str) -> str:
    """What a rank is told of a base that rank 0 cannot save; it then trains it all the same, with
    experts and LoRA in parts, and compares what is published."""
    from transformers import MixtralForCausalLM

    def save(self: object, *args: object, **options: object) -> None:
        raise ValueError("no such format")

    init_process_group()
    recipe = small(base, zero_stage=3, lora_rank=2)
    with pytest.MonkeyPatch.context() as patch:
        if rank() == 0:
            patch.setattr(MixtralForCausalLM, "save_pretrained", save)
        with pytest.raises(RecipeError) as caught:
            finetune(samples, recipe, with_kpi=True)
    trained = finetune(samples, recipe, with_kpi=True)
    export(trained, Path(folder))
    trained.engine.module.eval()
    # Every rank gathers; rank 0 has written.
    want_N = answers_logprobs(trained.engine, trained, samples)
    if rank() == 0:
        model = open_plainly(Path(folder))
        assert (want_N - answers_logprobs(model, trained, samples)).abs().max() < 1e-4
    return str(caught.value)


def test_ranks_agree_before_the_first_step(tmp_path: Path) -> None:
    samples = _make(30)
    base = save_base("mixtral", samples, tmp_path / "base")
    told = run_ranks(walk_and_train, 2, samples, base, str(tmp_path / "model"))
    rule = "cannot be published as MixtralForCausalLM (no such format)"
    remedy = "give another base, or train without llm.lora_rank"
    assert told == [f"llm.base = {base!r}: {rule}; {remedy}"] * 2
