"""What no user can act on is not printed, in a fresh process as in a stage's; what a user can act
on is."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings

import pytest

from boig_core.observability.quiet import ENVIRONMENT, WORKER_LINES, quiet_libraries

OPENING = """
import warnings
import ray_jobs
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.models import resolve_model
load_pipeline("package:tiny-sd")
from transformers import CLIPModel
from transformers.models.clip import CLIPImageProcessor
CLIPModel.from_pretrained(resolve_model("package:clip"))
from huggingface_hub.utils import are_progress_bars_disabled
assert are_progress_bars_disabled()
warnings.warn_explicit("soon", FutureWarning, "x.py", 1, module="torch.cuda")
warnings.warn_explicit("act on this", UserWarning, "x.py", 1, module="torch.cuda")
"""


@pytest.mark.slow
def test_a_process_that_opens_models_says_nothing_but_what_matters() -> None:
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ENVIRONMENT and not name.startswith("PYTHONWARN")
    }
    done = subprocess.run([sys.executable, "-c", OPENING], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line.strip() for line in done.stderr.splitlines()] == [
        "x.py:1: UserWarning: act on this"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "(TrainController pid=1) Requesting resources: {'CPU': 0.5} * 1",
        "- (ip=192.0.2.2, pid=10623) world_rank=0, local_rank=0, node_rank=0",
        "Setting up process group for: env:// [rank=0, world_size=1]",
        "WARNING: 8 PYTHON worker processes have been started on node: 3ed3 with address: 192.0.2.2",
        "[transformers] `CLIPImageProcessor` requires torchvision (not installed); falling back to `CLIPImageProcessorPil`",
        "Loading weights:  50%|█████     | 1/2",
        "The config attributes {'a': 1} were passed to AutoencoderTiny, but are not expected and will be ignored.",
    ],
)
def test_lines_of_rays_processes_that_are_left_out(line: str) -> None:
    assert re.search("|".join(WORKER_LINES), line)


@pytest.mark.parametrize(
    "line",
    [
        "step 3 of 90 · loss 1.2",
        "Some weights of CLIPModel were not initialized",
        "The node ran out of memory",
        "No GPU has room",
    ],
)
def test_lines_that_stay(line: str) -> None:
    assert not re.search("|".join(WORKER_LINES), line)


def test_a_users_own_settings_count_and_a_second_call_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "mine")
    with warnings.catch_warnings():
        quiet_libraries()
        quiet_libraries()
    assert os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] == "mine"
    assert len(logging.getLogger("transformers.utils.import_utils").filters) == 1


def test_only_the_known_line_of_a_logger_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    quiet_libraries()
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.warning(
        "The config attributes %s were passed to X, but are not expected and will be ignored.", {}
    )
    logger.warning("a scheduler is too old")
    assert [record.message for record in caplog.records] == ["a scheduler is too old"]
