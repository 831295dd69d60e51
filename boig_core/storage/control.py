"""Control files: the small JSON objects by which stages, attempts and readers meet (jobs, commits,
manifests, markers).

They may come from elsewhere, or be damaged, so whatever such a file holds that cannot be one is a
`CorruptError` with its name. Leaves out: what they mean (see `job`, `commit` and `manifest`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from boig_core.errors import CorruptError
from boig_core.storage import store
from boig_core.storage.paths import printable

Model = TypeVar("Model")
_DEEPEST: Final = 50
"""Levels of objects and lists; code that walks a tree may then do so by recursion."""
_LARGEST: Final = 2**64
"""Whole numbers stay below it, on both sides, and so within a float."""


def read_object(uri: str, what: str, remedy: str, *, finite: bool = True) -> dict[str, Any]:
    """The object in a control file, its fields as they stand.

    Args:
        uri: the file.
        what: what it is, such as ``a commit``; stands in the error.
        remedy: of that error.
        finite: whether numbers must be; False: it holds the state of a training, too.

    Raises:
        NotFoundInStoreError: there is no such file.
        CorruptError: it holds no JSON object, or one that no writer of boig leaves: with a number
            that is not finite or beyond 64 bits, half a character, or many levels.
    """
    tree = _read_tree(uri, what, remedy, finite)
    if not isinstance(tree, dict):
        raise _no(uri, what, "no object", remedy)
    return tree


def read(uri: str, model: type[Model], what: str, remedy: str) -> Model:
    """A control file as what it must be.

    Raises:
        NotFoundInStoreError, CorruptError: as `read_object`; also where a field is missing or
            wrong.
    """
    return validated(uri, model, _read_tree(uri, what, remedy, finite=True), what, remedy)


def validated(uri: str, model: type[Model], tree: Any, what: str, remedy: str) -> Model:
    """What `read_object` has read, as what it must be.

    Raises:
        CorruptError: a field is missing or wrong.
    """
    try:
        return cast(Model, _adapter(cast(Hashable, model)).validate_python(tree))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise _no(uri, what, printable(f"{place}: {first['msg']}"), remedy) from exc


def _read_tree(uri: str, what: str, remedy: str, finite: bool) -> Any:
    data = store.read_bytes(uri)
    try:
        # Decoded here: json would take UTF-16 as well, and bytes of half a character.
        tree = json.loads(data.decode())
        _check(tree, finite)
    # Deep nesting ends the parser before the check; all else that is wrong is a ValueError.
    except (ValueError, RecursionError) as exc:
        raise _no(uri, what, _line(exc), remedy) from exc
    return tree


@cache
def _adapter(model: Hashable) -> TypeAdapter[Any]:
    """What validates a model, a dataclass or a list of them."""
    return TypeAdapter(cast(Any, model))


def _check(tree: Any, finite: bool) -> None:
    """Refuse what readers would stumble over later, level by level."""
    level = [tree]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper += [*value, *value.values()]
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, str):
                value.encode()
            elif isinstance(value, float) and finite and not math.isfinite(value):
                raise ValueError("a number that is not finite")
            elif isinstance(value, int) and abs(value) >= _LARGEST:
                raise ValueError("a number beyond 64 bits")
        level = deeper
        if not level:
            return
    raise ValueError(f"more than {_DEEPEST} levels")


def _line(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return f"more than {_DEEPEST} levels"
    # Its own words show the byte or the character that is wrong, which a terminal may not.
    return "no text in UTF-8" if isinstance(exc, UnicodeError) else str(exc)


def _no(uri: str, what: str, why: str, remedy: str) -> CorruptError:
    return CorruptError(uri, f"is not {what} ({why})", remedy)
