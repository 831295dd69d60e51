"""Near-duplicates: images that look the same although their bytes differ, by a perceptual hash.

A fingerprint is the 64-bit pHash of an image's luminance and its mean color: two images are near
when the hashes differ in few bits and the means in few levels, since a pHash alone takes a red and
a green wall for one. Leaves out: what follows from being near (see `split`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SIDE: Final = 64
"""Side of the picture that a fingerprint is taken of."""
_GRAYS: Final = 32
"""Side of the picture that a pHash takes its waves of."""
_COSINES: Final = 2 * np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_GRAYS) + 1) / 2 / _GRAYS)
"""The 8 lowest waves of the discrete cosine transform of type 2, (8, 32)."""
_ROUNDING: Final = 1e-6
"""Waves are sums of a thousand products below 1,020, so rounding moves them by far less."""
_MEAN: Final = 8
"""Levels of 256 that the mean red, green or blue of near images may differ."""


def fingerprint(image: Image.Image) -> str:
    """22 hex digits: 16 of the pHash, then the mean red, green and blue.

    Args:
        image: upright RGB, of any size.
    """
    # Twice the side that a pHash shrinks to by itself. The gap lets Pillow go by whole numbers
    # first, which is faster.
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    red, green, blue = small.resize((1, 1), Image.Resampling.BOX).tobytes()
    return f"{np.packbits(_phash(small)).tobytes().hex()}{red:02x}{green:02x}{blue:02x}"


def _phash(image: Image.Image) -> NDArray[np.bool_]:
    """The bits that ImageHash gives, (8, 8), without what it loads: SciPy costs each process that
    decodes 25 MiB and a third of a second."""
    grays = np.asarray(image.convert("L").resize((_GRAYS, _GRAYS), Image.Resampling.LANCZOS))
    waves = _COSINES @ grays @ _COSINES.T
    lower, upper = np.sort(waves, axis=None)[31:33]
    # Waves that nearly equal the median, as in an image of one color, lie on the side where the
    # rounding of ImageHash's own sums puts them.
    if upper - lower < _ROUNDING:
        import imagehash

        return np.asarray(imagehash.phash(image).hash)
    return np.asarray(waves > (lower + upper) / 2)


def near_pairs(con: DuckDBPyConnection, table: str, distance: int) -> list[tuple[str, str]]:
    """Pairs of distinct fingerprints that are near, each once, sorted.

    Exact: hashes that differ in at most ``distance`` bits agree in one of ``distance + 1`` bands,
    so only those that share a band are compared.

    Args:
        con: a connection whose table has them.
        table: its name, with a column ``fingerprint``, repeats allowed.
        distance: bits of 64.
    """
    bands = distance + 1
    # Bands of about the same width: a narrow one would have few values, and hashes that share one
    # of them by chance would all be compared.
    edges = [round(64 * band / bands) for band in range(bands + 1)]
    pieces = " UNION ALL ".join(
        f"SELECT *, {band} AS band, (hash >> {low}) & {(1 << (high - low)) - 1}::UBIGINT AS bits FROM print"
        for band, (low, high) in enumerate(pairwise(edges))
    )
    pairs = con.execute(
        f"""
        WITH print AS (
            SELECT DISTINCT fingerprint, ('0x' || fingerprint[1:16])::UBIGINT AS hash, ('0x' || fingerprint[17:18])::INT AS red,
                ('0x' || fingerprint[19:20])::INT AS green, ('0x' || fingerprint[21:22])::INT AS blue
            FROM {table}
        ), banded AS ({pieces})
        SELECT DISTINCT a.fingerprint, b.fingerprint
        FROM banded a JOIN banded b ON a.band = b.band AND a.bits = b.bits AND a.fingerprint < b.fingerprint
        WHERE bit_count(xor(a.hash, b.hash)) <= {distance}
            AND greatest(abs(a.red - b.red), abs(a.green - b.green), abs(a.blue - b.blue)) <= {_MEAN}
        ORDER BY ALL
        """
    ).fetchall()
    return [(str(first), str(other)) for first, other in pairs]


def components(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each name in the pairs, the smallest name that it hangs together with, directly or
    through others (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            # Halves the way on each walk, so that long chains are not walked again and again.
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for left, other in pairs:
        # The smaller root stays one, so that a root is always the smallest name.
        first, second = sorted((root(left), root(other)))
        parent[second] = first
    return {name: root(name) for name in list(parent)}
