"""Section ``data.dialect``: how a posts file is written, where the file itself does not tell."""

from __future__ import annotations

import codecs

from pydantic import Field, field_validator

from boig_core.config.section import Section


class Dialect(Section):
    """How a posts file is written. What is null is told from the file's start, by what makes its
    rows even; what a file leaves open has to stand here."""

    delimiter: str | None = Field(None, pattern=r'^[^\r\n"]$')
    """Sign between the cells of a CSV file, such as ``";"`` or ``"\\t"``. null: told from the
    file."""
    quote: str | None = Field(None, pattern=r"^[^\r\n]?$")
    """Sign around the cells of a CSV file that hold a delimiter or a line break; written twice, it
    stands for itself. ``""``: no cell is quoted, and quotes are signs like any other. null: told
    from the file."""
    escape: str | None = Field(None, pattern=r"^[^\r\n]?$")
    """Sign before a quote, a delimiter or itself that makes it an ordinary sign, such as
    ``"\\\\"``. ``""``: there is none. null: told from the file."""
    encoding: str | None = None
    """Encoding of a text file, by its Python name: ``utf-8``, ``cp1252``, ``cp1250``,
    ``utf-16``, ``shift_jis``. null: told from the file, among UTF-8, UTF-16, UTF-32 and
    Windows-1252."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            # Some codecs make bytes of bytes, such as zlib.
            if value is not None and not codecs.lookup(value)._is_text_encoding:
                raise LookupError
        except LookupError as exc:
            raise ValueError(f"{value} is no encoding that Python knows") from exc
        return value
