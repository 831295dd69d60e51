"""Logging: one line format for every boig process, readable in a terminal and in an Airflow task log."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
DATES: Final = "%H:%M:%S"


def get_logger(name: str) -> logging.Logger:
    """Logger of a module."""
    return logging.getLogger(name)


def configure_logging() -> None:
    """Send boig's logs to standard output at ``BOIG_LOG_LEVEL`` (default INFO), libraries' at WARNING; safe to call again."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format=FORMAT, datefmt=DATES, force=True)
    for name in ("boig_core", "ray_jobs", "__main__"):
        logging.getLogger(name).setLevel(os.environ.get("BOIG_LOG_LEVEL", "INFO").upper())
