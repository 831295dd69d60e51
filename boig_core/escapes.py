"""Text of strangers as a terminal or a log may show it: characters that act are written out.

What comes from posts, images, recipes, endpoints and other processes may hold escape sequences that
recolor, overwrite or link a terminal, and marks that turn the order of letters around. Stands below
everything, since every error shows such text. Leaves out: secrets
(`boig_core.observability.logs`), and pages, whose templates escape.
"""

from __future__ import annotations

import re
from typing import Final

# All of C0 and C1 but the tab and the line feed, the separators that other readers take for the end
# of a line, overrides and isolates of the direction of writing, and halves of surrogate pairs.
_ACTING: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with each acting character written out, such as ``\x1b``; tabs and line feeds stay,
    and a text that holds nothing else is unchanged."""
    return _ACTING.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
