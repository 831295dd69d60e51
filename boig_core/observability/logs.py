"""Logging: one line format for every boig process, readable in a terminal and in an Airflow task
log."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from boig_core import environment
from boig_core.escapes import visible
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

_SET_IN: Final = "    "

OWN: Final = ("boig_core", "ray_jobs", "__main__")
"""First part of the names of boig's own loggers."""

IN_ADDRESS: Final = re.compile(r"(?<=://)[^\s/@]+@")
"""User and password of an address."""

_SECRET_KEYS: Final = re.compile(
    r"(secret|secret_id|token|password|passwd|passphrase|credentials?"
    r"|(api|access|secret|private|auth|account|sas)[_-]?key)$",
    re.IGNORECASE,
)
"""Keys of JSON objects whose texts are never written down; a bare ``key`` is a name more often."""


def secret_values() -> tuple[tuple[str, str], ...]:
    """Each secret of this process's environment in each form that a library may write, with what to
    write in its place, the longest first: secret variables, and passwords in addresses and in JSON
    of any."""
    return _secrets_of(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _secrets_of(variables: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    # Kept from line to line: a log has many, and a pod hundreds of variables.
    found: dict[str, str] = {}
    for name, value in variables:
        for secret, instead in _secrets_in(name, value):
            if len(secret) >= SHORTEST:
                encoded = base64.b64encode(secret.encode()).decode()
                for form in (secret, quote(secret, safe=""), encoded):
                    found.setdefault(form, instead)
    # The longest first: one secret may be the beginning of another, whose rest would then show.
    return tuple(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _secrets_in(name: str, value: str) -> Iterator[tuple[str, str]]:
    """Secrets of a variable, as they are meant."""
    if SECRET_NAMES.search(name):
        yield value.strip(), f"[{name}]"
    for match in IN_ADDRESS.findall(value):
        user, _, password = match[:-1].partition(":")
        yield password, "[password]"
        yield unquote(password), "[password]"
        if password:  # as Basic authentication sends it
            sent = f"{unquote(user)}:{unquote(password)}"
            yield base64.b64encode(sent.encode()).decode(), "[password]"
    yield from _secrets_in_json(value)


def _secrets_in_json(text: str) -> Iterator[tuple[str, str]]:
    """Secrets of a JSON object, such as a connection of Airflow, also in JSON that it holds as
    text."""
    if not text.lstrip().startswith(("{", "[")):
        return
    with suppress(ValueError, RecursionError):
        waiting = [json.loads(text)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                waiting += value
            for key, each in value.items() if isinstance(value, dict) else ():
                if isinstance(each, str):
                    if _SECRET_KEYS.search(key):
                        yield each, f"[{key}]"
                    yield from _secrets_in_json(each)
                else:
                    waiting.append(each)


def hide_secrets(text: str) -> str:
    """The text without secrets of the environment, and without user and password of any address."""
    for value, instead in secret_values():
        text = text.replace(value, instead)
    return IN_ADDRESS.sub("[credentials]@", text)


class LineFormat(logging.Formatter):
    """Time, level, logger and message, without secrets and with control characters written out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One record, with its traceback if it has one; lines after the first are set in, so that
        none of them passes for another record."""
        # After formatting, so that arguments and tracebacks are covered, too.
        return visible(hide_secrets(super().format(record))).replace("\n", f"\n{_SET_IN}")


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
