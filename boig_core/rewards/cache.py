"""Scores that are kept: what was scored once under the same key is not scored again, by any stage
or run of a store.

    STORE/rewards/KEY/scores-HASH.parquet    question (hash), then one column a value; never
                                             rewritten

The key stands for all that decides how images are seen and scored; a question is an image with the
texts of its prompts, so that post, conditions and templates count by what they say. For real
images, which come again: those of rollouts never do. Leaves out: scoring.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import LLM
from boig_core.data import tables
from boig_core.observability.logs import get_logger
from boig_core.rewards.calibration import Conditions
from boig_core.storage import store
from boig_core.verbalization.templates import Wording, build_prompt
from boig_core.vocabulary import Sample

log = get_logger(__name__)

Rows = dict[str, NDArray[np.float64]]
"""Values by name, each (N,)."""
_FAMILY: Final = "scores"
_READERS: Final = 16
"""Files that are read at a time."""
_KEEP: Final = 1024
"""Scores that are kept together: a job that is killed loses at most so many, and a store fills with
few files."""
_CODE: Final = ("rewards", "verbalization", "llm")
"""Rooms whose source decides about scores."""


def cache_folder(
    root: str,
    *,
    names: Collection[str],
    perception: str,
    model: str,
    llm: LLM,
    predictor: str | None = None,
) -> str:
    """Where scores are kept that depend on the same things.

    Args:
        root: of the store.
        names: formulations that are scored.
        perception: key of what saw the images (`boig_core.perception.version.perception_key`).
        model: digest of BoigLLM's manifest; its files fix the precision too, because a model is
            scored in the one that it is stored in.
        llm: how its own answers are written.
        predictor: digest of the engagement predictor's manifest; None without one.
    """
    here = Path(__file__).parent.parent
    # Changed code may score otherwise. Without its hash in the key, old and new scores would stand
    # in one table.
    code = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for room in _CODE
        for path in sorted((here / room).glob("*.py"))
    ]
    # How answers are written counts too: one formulation compares an image with an answer of
    # BoigLLM's own.
    parts = [sorted(names), perception, model, predictor, llm.max_new_tokens, llm.constrained, code]
    return store.join(root, "rewards", hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16])


def questions(
    images: Sequence[str], samples: Sequence[Sample], conditions: Conditions, wording: Wording
) -> list[str]:
    """Hash of each image (by its SHA-256) with its sample's frame and prompts under HIGH and
    LOW."""
    asked = []
    for image, sample in zip(images, samples, strict=True):
        pair = conditions.of(sample.account)
        prompts = [
            build_prompt(sample, condition, wording)
            for condition in (pair.high_condition, pair.low_condition)
        ]
        asked.append(
            hashlib.sha256(
                json.dumps([image, sample.width, sample.height, *prompts]).encode()
            ).hexdigest()
        )
    return asked


def through_cache(
    folder: str,
    asked: Sequence[str],
    scored: Callable[
        [Sequence[int]], Iterable[tuple[Sequence[int], Mapping[str, NDArray[np.float64]]]]
    ],
) -> tuple[Rows, int]:
    """Values of each question, and how many of them were known.

    Args:
        folder: of `cache_folder`.
        asked: the questions.
        scored: scores those at these indices; gives indices and their values, part by part, in any
            order.
    """
    rows = _known(folder, set(asked))
    missing = [index for index, question in enumerate(asked) if question not in rows]
    log.info(
        "%s: %d scores are known, %d are made",
        store.name(folder),
        len(asked) - len(missing),
        len(missing),
    )
    fresh: dict[str, dict[str, float]] = {}
    for indices, values in scored(missing) if missing else ():
        fresh |= {
            asked[index]: {name: float(of_N[place]) for name, of_N in values.items()}
            for place, index in enumerate(indices)
        }
        if len(fresh) >= _KEEP:
            _keep(folder, fresh)
            rows, fresh = rows | fresh, {}
    if fresh:
        _keep(folder, fresh)
    rows |= fresh
    # Every row of a folder has the same columns, since the formulations are part of its key.
    names = rows[asked[0]] if asked else ()
    return {
        name: np.array([rows[question][name] for question in asked], np.float64) for name in names
    }, len(asked) - len(missing)


def in_parts(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Successive parts of at most ``size``."""
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _known(folder: str, wanted: Collection[str]) -> dict[str, dict[str, float]]:
    import pyarrow.parquet as pq

    def read(name: str) -> list[dict[str, Any]]:
        filesystem, path = store.filesystem(store.join(folder, name))
        rows: list[dict[str, Any]] = pq.read_table(path, filesystem=filesystem).to_pylist()
        return rows

    # A remote store answers each small file after a delay of its own, so many are asked for at
    # once.
    with ThreadPoolExecutor(_READERS) as pool:
        rows = [
            row
            for rows_of_file in pool.map(read, [name for name, _ in store.list_files(folder)])
            for row in rows_of_file
        ]
    return {str(row.pop("question")): row for row in rows if row["question"] in wanted}


def _keep(folder: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(
        # Sorted, because a file is named by the hash of its bytes: two jobs that score the same
        # part write one file.
        [{"question": question, **rows[question]} for question in sorted(rows)]
    )
    tables.write_named(table, _FAMILY, folder)
