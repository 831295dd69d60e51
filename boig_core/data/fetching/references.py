"""References: what the text by which a post names an image means, as exports write it.

In a file from the web a reference means what it means in a page of the web: it is relative to the
file's address. On disk and in S3 it is relative to the file's folder, and every sign of it is part
of a name. Leaves out: where a reference may lead (see `reach`), and reading (see `fetch`).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Final
from urllib.parse import quote, unquote, urljoin

from boig_core.config.locations import is_windows, with_plain_scheme

_WEB: Final = re.compile(r"https?://", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.IGNORECASE)
_HOST: Final = re.compile(r"//[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}(:\d+)?/")
"""How ``//cdn.example/x.png`` starts, which pages write for an address of either scheme."""
_BLANKS: Final = "\ufeff\u200b"
"""Signs that spreadsheets put around an address, and that are no white space to Python."""
_WRAPPED: Final = re.compile(r"\"[^\"]+\"|'[^']+'|<[^<>]+>")
_AMPERSAND: Final = re.compile("&(?:amp|#0*38|#x0*26);", re.IGNORECASE)
"""An ampersand as HTML writes it, which no address means as it stands."""
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_URL_SIGNS: Final = "%!$&'()*+,;=:@/?"
"""What stands in a path or a query as it is, beside letters, digits and ``-._~``."""
_LARGEST_FOLDER: Final = 200_000
"""Names of a folder that is searched for another case of a name: some 40 MB."""


def address_of(file: str, reference: str) -> str:
    """The address that a reference means.

    Args:
        file: the posts file: a path, ``s3://`` or ``http(s)://``.
        reference: an image as its row names it.

    Returns:
        A location that is relative no more, or a text that names none.
    """
    text = with_plain_scheme(_bare(reference))
    if _WEB.match(file):
        text = _of_page(file, text)
    elif _HOST.match(text):
        text = f"https:{text}"
    if _WEB.match(text):
        return web_address(text)
    if text.startswith((".\\", "..\\")):
        text = text.replace("\\", "/")
    if not (_SCHEME.match(text) or is_windows(text) or text.startswith("/")):
        text = f"{file.rpartition('/')[0]}/{text}"
    return _without_dots(text) if text.startswith("s3://") else text


def _bare(reference: str) -> str:
    """A reference without what tools put around and into it: white space, quotes, and slashes
    escaped as in JSON."""
    text = reference.strip().strip(_BLANKS).strip()
    if _WRAPPED.fullmatch(text):
        text = text[1:-1].strip()
    return text.replace("\\/", "/")


def _of_page(page: str, text: str) -> str:
    if is_windows(text):
        return text
    path, sign, rest = re.fullmatch(r"([^?#]*)([?#]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        return urljoin(page, f"{path.replace(chr(92), '/')}{sign}{rest}")
    except ValueError:
        return text


def _without_dots(uri: str) -> str:
    """An S3 location without ``.`` and ``..``, which to S3 are names like any other; a ``..`` that
    leads out of the bucket stays."""
    bucket, slash, key = uri.removeprefix("s3://").partition("/")
    steps: list[str] = []
    for step in key.split("/"):
        if step == ".." and steps and steps[-1] != "..":
            steps.pop()
        elif step != ".":
            steps.append(step)
    return f"s3://{bucket}{slash}{'/'.join(steps)}"


def web_address(text: str) -> str:
    """A web address as a request carries it: signs that may not stand in one are quoted, what is
    quoted stays as it is, since a signature may cover it, and the fragment is left out.

    Raises:
        UnicodeEncodeError: half of a surrogate pair.
    """
    scheme, _, rest = re.sub(r"[\t\r\n]", "", text).strip().partition("://")
    rest = _AMPERSAND.sub("&", rest)
    before, question, query = rest.partition("#")[0].partition("?")
    host, slash, path = before.replace("\\", "/").partition("/")
    # Of the forms of one letter, names of hosts know the composed one alone, and one dot.
    host = re.sub("[\u3002\uff0e\uff61]", ".", unicodedata.normalize("NFC", host))
    return f"{scheme.lower()}://{host}{slash}{_quoted(path)}{question}{_quoted(query)}"


def _quoted(part: str) -> str:
    return quote(_LONE_PERCENT.sub("%25", part), safe=_URL_SIGNS)


def spellings(name: str) -> Iterator[str]:
    """Other ways to write the path of a file, in the order in which they are tried: with slashes
    where Windows writes backslashes, with percent signs (and the pluses of S3's own lists)
    resolved, and each with the composed letters of most systems and the decomposed ones of
    macOS."""
    slashes = name.replace("\\", "/")
    ways = (
        text
        for plain in (name, slashes)
        for text in (plain, _unquoted(plain), _unquoted(plain.replace("+", " ")))
    )
    forms = (
        form
        for text in ways
        for form in (text, *(unicodedata.normalize(nf, text) for nf in ("NFC", "NFD")))
    )
    yield from (form for form in dict.fromkeys(forms) if form != name)


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def in_other_case(path: str) -> str | None:
    """The one path that differs from this one, of which there is no file, only in upper and lower
    case; None: there is none, or several.

    Args:
        path: absolute.
    """
    folder, missing = path, list[str]()
    while folder != "/" and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
        missing.insert(0, name)
    for name in missing:
        if not os.path.lexists(os.path.join(folder, name)):
            with _listing:
                try:
                    names = _names(folder, os.stat(folder).st_mtime_ns)
                except OSError:
                    return None
            other = names.get(_folded(name))
            if other is None:
                return None
            name = other
        folder = os.path.join(folder, name)
    return folder if missing else None


_listing = Lock()


# With the time of its last change, so that a file that comes later is seen.
@lru_cache(maxsize=4)
def _names(folder: str, changed: int) -> dict[str, str | None]:
    """Names in a folder by what is left of them without case; None: several are alike."""
    with os.scandir(folder) as entries:
        present = [entry.name for entry in islice(entries, _LARGEST_FOLDER + 1)]
    if len(present) > _LARGEST_FOLDER:
        return {}
    names: dict[str, str | None] = {}
    for name in present:
        folded = _folded(name)
        names[folded] = None if folded in names else name
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
