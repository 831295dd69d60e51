"""Which images a row names: a list, or one text that may hold several.

CSV has no lists, so exports write ``['a.png', 'b.png']``, ``a.png|b.png`` or ``a.png,b.png`` into a
cell. A text is a list where it surely is one: the name of an image may hold any of these signs.
Leaves out: what a reference leads to (see `fetch`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from boig_core.data.cells.values import BINARY, as_text, is_missing, plain, too_large
from boig_core.data.rejects import Rejected

MAX_IMAGES: Final = 200
"""Images of a post: ten times what the longest carousel holds (Instagram's, 20)."""
_MAX_REFERENCE: Final = 4096
"""Characters of an image reference: no path may be longer, no key of S3, and no common URL."""
_SPACE: Final = " \t\r\n\ufeff\u200b\u00a0"
_ADDRESS: Final = re.compile(r"(?:https?|s3|file)://", re.IGNORECASE)
# From the start of a run of signs alone, so that a long one is gone through once.
_BEFORE_ADDRESS: Final = re.compile(
    r"(?<![\s,;|])[\s,;|]++(?=(?:https?|s3|file)://)", re.IGNORECASE
)
_NAME_OF_IMAGE: Final = re.compile(
    r".+\.(?:png|jpe?g|jfif|webp|gif|bmp|tiff?|heic|heif|avif)", re.IGNORECASE | re.DOTALL
)
_QUOTED: Final = re.compile(
    r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(None|null|nan))\s*,?"""
)
_EMBEDDED: Final = re.compile(
    r"data:([\w.+/-]{0,60})|(?:iVBORw0KGgo|/9j/4|R0lGOD|UklGR)[\w+/=\s]{200}", re.IGNORECASE
)


def image_references(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """References to the images of a row, each once, without white space around them; what stands
    for nothing in a list is passed over.

    Args:
        fields: a row under our column names; ``images`` counts, else ``image``.

    Raises:
        Rejected: there is none, one that cannot be read or is the image itself, or too many.
    """
    references: list[str] = []
    for column in ("images", "image"):
        if not references and not is_missing(value := fields.get(column)):
            references = _references(value, column)
    if not references:
        raise Rejected("missing_field", "image is missing")
    if len(references) > MAX_IMAGES:
        raise too_large("the row names", len(references), "images", MAX_IMAGES)
    if (longest := max(map(len, references))) > _MAX_REFERENCE:
        raise too_large("a name of an image has", longest, "characters", _MAX_REFERENCE)
    return tuple(dict.fromkeys(references))


def listed_texts(value: Any) -> list[str]:
    """Keywords of a row: of a list its texts, or what its objects call tag, name or text; of a text
    what stands between commas, semicolons, bars or line breaks."""
    if isinstance(value, str) and value.strip()[:1] == "[":
        try:
            value = _bracketed(value.strip(), "keywords")
        except Rejected:
            value = value.strip().strip("[]")
    if isinstance(value, str):
        words = re.split(r"[,;|\n]", value)
        # Hashtags stand side by side.
        if len(words) == 1 and all(word.startswith("#") for word in value.split()):
            words = value.split()
        return [word.strip().strip("\"'").lstrip("#") for word in words if not is_missing(word)]
    items = value if isinstance(value, list) else []
    texts = (
        next((item[key] for key in ("tag", "name", "text") if key in item), None)
        if isinstance(item, Mapping)
        else item
        for item in items
    )
    return [text.lstrip("#") for text in texts if isinstance(text, str) and not is_missing(text)]


def without_embedded(fields: dict[str, Any]) -> dict[str, Any]:
    """A row whose images, where they stand in the row itself, are cut to what tells of them: they
    would make it too large to be kept."""
    for column in ("images", "image"):
        value = fields.get(column)
        if isinstance(value, str):
            fields = {**fields, column: _cut(value)}
        elif isinstance(value, list):
            fields = {**fields, column: [_cut(v) if isinstance(v, str) else v for v in value]}
    return fields


def _cut(text: str) -> str:
    if len(text) <= 300 or not _EMBEDDED.match(text.lstrip(_SPACE)):
        return text
    return f"{text.lstrip(_SPACE)[:250]}... ({len(text)} characters)"


def _references(value: Any, column: str) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str):
        # What is embedded holds signs that look like those between names.
        text = value.strip(_SPACE)
        items = [text] if _EMBEDDED.match(text) else _split(text, column)
    return [_reference(item, column) for item in items if not is_missing(item)]


def _reference(item: Any, column: str) -> str:
    if isinstance(item, Mapping) and is_missing(item.get("bytes")) and BINARY not in item:
        address = next((item[key] for key in ("url", "src", "path") if key in item), None)
        if not isinstance(address, str):
            keys = ", ".join(str(key)[:40] for key in list(item)[:6])
            raise Rejected(
                "image_missing",
                f"{column} holds an object without url (it has {keys or 'nothing'})",
            )
        item = address
    item = plain(item) if isinstance(item, bytes) else item
    if isinstance(item, Mapping):
        raise _embedded("bytes")
    if not isinstance(item, str):
        raise Rejected(
            "image_missing",
            f"{column} = {str(item)[:40]!r} is no reference to an image, nor a list",
        )
    text = item.strip(_SPACE)
    if match := _EMBEDDED.match(text):
        raise _embedded(match[1] or "base64")
    return as_text(text, column)


def _embedded(kind: str) -> Rejected:
    return Rejected(
        "image_missing",
        f"the row holds an embedded image ({kind}), no reference: save it as a file, and name that",
    )


def _split(text: str, column: str) -> list[Any]:
    """The list that a text surely is, else the text."""
    if text[:1] + text[-1:] in ("[]", "()", "{}"):
        return _bracketed(text, column)
    if _ADDRESS.match(text):
        # Any sign may be part of an address, but not one that another address follows.
        return [name.strip(_SPACE + ",;|") for name in _BEFORE_ADDRESS.split(text)]
    for sign in (sign for sign in ("\n", "|", ";", ",", " ") if sign in text):
        names = [name.strip(_SPACE + "\"'") for name in text.split(sign) if name.strip(_SPACE)]
        if len(names) > 1 and all(map(_is_reference, names)):
            return names
    if "|" in text or "\n" in text:
        raise Rejected(
            "image_missing",
            f"{column} = {text[:60]!r} may be a list of several images or the name of one: "
            'write several as ["a.png", "b.png"]',
        )
    return [text]


def _is_reference(name: str) -> bool:
    return bool(_ADDRESS.match(name) or _NAME_OF_IMAGE.fullmatch(name))


def _bracketed(text: str, column: str) -> list[Any]:
    """Items of a list as JSON, Python or a database writes it."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if isinstance(items, (list, dict)):
        return items if isinstance(items, list) else [items]
    inner, place, names = text[1:-1], 0, list[str]()
    # Arrays of numpy have no commas between items, so this is no syntax of Python's.
    while match := _QUOTED.match(inner, place):
        names += [
            re.sub(r"\\(.)", r"\1", name.strip(_SPACE)) for name in match.groups()[:2] if name
        ]
        place = match.end()
    if not inner[place:].strip(_SPACE):
        return names
    bare = [name.strip(_SPACE) for name in inner.split(",")]
    if all(map(_is_reference, bare)):
        return bare
    # A folder may be called [2024].
    if _NAME_OF_IMAGE.fullmatch(text):
        return [text]
    raise Rejected("image_missing", f"{column} = {text[:60]!r} is no list that can be read")
