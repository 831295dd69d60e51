"""What a command prints, for people: names and words in it may come from strangers."""

from __future__ import annotations

from boig_core.escapes import visible


def show(text: str, end: str = "\n") -> None:
    """Print a text with its control characters written out."""
    # At once: whoever follows through a pipe sees each chunk as it comes.
    print(visible(text), end=end, flush=True)
