"""What libraries print that no user can act on, turned off in one place: bars, advice to
developers, news of their own start.

What a user can act on stays: a missing weight, a text that was cut, a node without room. To be
called before the libraries are imported, as the packages do that use them (`ray_jobs`,
`boig_core.cluster`); processes that this one starts take most of it over from the environment.
Leaves out: boig's own lines (see `logs`).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import Final

ENVIRONMENT: Final = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # those of transformers, too
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Settings that a user's own come before."""

WORKER_LINES: Final = (
    # several times a second where there is no dashboard
    "Failed to query Ray Train Controller actor state",
    "Requesting resources: ",
    "Attempting to start training worker group",
    "Started training worker group",
    r"- \(ip=.*world_rank=",
    "Setting up process group for: ",
    "PYTHON worker processes have been started on node",
    "Actor with class name: 'PreemptionWatcher'",
    "requires torchvision \\(not installed\\)",
    "were passed to .* but are not expected and will be ignored",
    "Expected types for .*, got ",
    "Loading weights: ",
    "Converting and de-quantizing GGUF tensors",
    "Loading pipeline components",
    "The pynvml package is deprecated",
)
"""Lines of Ray's processes, which Ray would print in the stage's own output."""

_LINES: Final = {
    "transformers.utils.import_utils": "requires torchvision",
    "diffusers.configuration_utils": "but are not expected and will be ignored",
    "diffusers.pipelines.pipeline_utils": "^Expected types for",
}
"""Warnings by their logger: about models that ship with boig, and about parts that are left out on
purpose."""

_BARS: Final = ("transformers", "diffusers")
_SKIPPED: Final = "RAY_DEDUP_LOGS_SKIP_REGEX"
# Matches every module but boig's own: the warnings of these stay.
_OWN: Final = r"(?!boig_core|ray_jobs|__main__)"


class _Without(logging.Filter):
    """Lets every line through but those that match."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is shown."""
        return not self._pattern.search(record.getMessage())


def quiet_libraries() -> None:
    """Turn it off in this process and in those that it starts; safe to call again."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(_SKIPPED, "|".join(WORKER_LINES))
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=_OWN)
    warnings.filterwarnings("ignore", message="Can't initialize NVML", category=UserWarning)
    for name, pattern in _LINES.items():
        # A filter of a logger does not see what the loggers below it log, so each is named in full.
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(pattern))
    hide_bars()


def hide_bars() -> None:
    """No progress bars of libraries that are loaded; diffusers reads no variable, so whoever opens
    a model calls this."""
    for name in _BARS:
        if f"{name}.utils.logging" in sys.modules:
            sys.modules[f"{name}.utils.logging"].disable_progress_bar()
