"""Logging: one line format for every boig process, readable in a terminal and in an Airflow task
log."""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from boig_core import environment
from boig_core.observability.quiet import quiet_libraries

SECRET_NAMES: Final = re.compile(
    r"(KEY|KEY_ID|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|ALERT_URL"
    r"|(^|_)(PASS|PAT|WEBHOOK|WEBHOOK_URL|DSN))$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are never written down."""

SHORTEST: Final = 8
"""Characters of the shortest value that is hidden: a shorter one (``true``, ``testing``) stands in
ordinary words too."""

OWN: Final = ("boig_core", "ray_jobs", "__main__")
"""First part of the names of boig's own loggers."""

IN_ADDRESS: Final = re.compile(r"(?<=://)[^\s/@]+@")
"""User and password of an address."""
_IN_JSON: Final = re.compile(r'"([A-Za-z0-9_-]+)"\s*:\s*"((?:[^"\\]|\\.)*)"')
"""A key of a JSON object and its text."""


def secret_values() -> Iterator[tuple[str, str]]:
    """Each secret of this process's environment, and what to write in its place: secret variables,
    and passwords in addresses of any."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name):
            yield from _forms(value.strip(), f"[{name}]")
        for secret in IN_ADDRESS.findall(value):
            yield from _forms(secret[:-1].partition(":")[2], "[password]")
        # A connection of Airflow as JSON, or any other settings that are written so.
        for key, secret in _IN_JSON.findall(value):
            if SECRET_NAMES.search(key):
                yield from _forms(secret, f"[{key}]")


def _forms(secret: str, instead: str) -> Iterator[tuple[str, str]]:
    """A secret in the forms in which a library may write it: as it is, quoted for an address, and
    as base64."""
    if len(secret) >= SHORTEST:
        encoded = base64.b64encode(secret.encode()).decode()
        for form in dict.fromkeys((secret, quote(secret, safe=""), encoded)):
            yield form, instead


def hide_secrets(text: str) -> str:
    """The text without secrets of the environment, and without user and password of any address."""
    # The longest first: one secret may be the beginning of another, whose rest would then show.
    for value, instead in sorted(secret_values(), key=lambda pair: -len(pair[0])):
        text = text.replace(value, instead)
    return IN_ADDRESS.sub("[credentials]@", text)


class LineFormat(logging.Formatter):
    """Time, level, logger and message, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One record, with its traceback if it has one."""
        # After formatting, so that arguments and tracebacks are covered, too.
        return hide_secrets(super().format(record))


def get_logger(name: str) -> logging.Logger:
    """Logger of a module."""
    return logging.getLogger(name)


def configure_logging() -> None:
    """Send boig's logs to standard output at ``BOIG_LOG_LEVEL`` (default INFO), libraries' at
    WARNING; safe to call again."""
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(LineFormat())
    # Without force this does nothing where a library has installed a handler before.
    logging.basicConfig(level=logging.WARNING, handlers=[shown], force=True)
    quiet_libraries()
    for name in OWN:
        logging.getLogger(name).setLevel((environment.LOG_LEVEL.read() or "INFO").upper())
