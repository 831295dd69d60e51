"""What a process imports costs seconds of two cores at each start: those that coordinate or score
leave out what samples and trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

DRIVERS = [
    f"ray_jobs.{stage}"
    for stage in (
        "ingest",
        "perceive",
        "finetune_llm",
        "evaluate_llm",
        "calibrate",
        "finetune_sd",
        "ddpo",
    )
]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (DRIVERS, {"torch", "diffusers", "transformers", "peft", "deepspeed"}),
        (
            ["boig_core.evaluation.measure.probe", "boig_core.cluster.rollouts"],
            {"diffusers", "transformers", "peft", "deepspeed"},
        ),
    ],
    ids=["drivers", "reward actors"],
)
def test_heavy_libraries_are_imported_where_they_are_used_alone(
    modules: list[str], absent: set[str]
) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert absent & set(done.stdout.split()) == set()


def test_a_rank_starts_without_mlflow_and_may_import_it_afterwards() -> None:
    code = (
        "import sys; from boig_core.training import engine; engine.init_process_group(); "
        "engine._import_deepspeed(); print('mlflow' in sys.modules); import mlflow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
