"""Credentials in a location, which no location may carry: it ends in job files, logs and manifests.

Leaves out: hiding secrets of the environment (see `boig_core.observability.logs`).
"""

from __future__ import annotations

import re
from typing import Final

from boig_core.errors import InputError

_SECRET_QUERIES: Final = (
    *(
        f"x-{cloud}-{part}"
        for cloud in ("amz", "goog")
        for part in ("signature", "credential", "security-token")
    ),
    *("signature", "sig", "token", "access_token", "auth_token", "api_key", "api-key", "apikey"),
    *("access_key", "accesskey", "password", "passwd", "secret", "client_secret"),
)
_ANY_CASE: Final = "|".join(
    "".join(f"[{sign.upper()}{sign}]" if sign.isalpha() else sign for sign in name)
    for name in _SECRET_QUERIES
)
CREDENTIALS: Final = rf"://([^/]*@|.*[?&]({_ANY_CASE})=)"
"""A location with a user, a password or a signature, as a regular expression that JSON Schema
understands, too."""


def refuse_secrets(uri: str) -> None:
    """Keep credentials out of locations, since those end in job files, logs and manifests.

    Raises:
        InputError: the location carries a user, a password or a signature; the message does not
            repeat them.
    """
    if re.search(CREDENTIALS, uri):
        scheme = uri.partition("://")[0]
        raise InputError(
            f"{scheme}://...",
            "carries credentials",
            "give them through the standard AWS variables, never in a location"
            if scheme == "s3"
            else "copy what it leads to into the store, and name that place",
        )
