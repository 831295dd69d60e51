"""Near-duplicates: images that look the same although their bytes differ, by a perceptual hash.

A fingerprint is the 64-bit pHash of an image's luminance and its mean color: two images are near
when the hashes differ in few bits and the means in few levels, since a pHash alone takes a red and
a green wall for one. Leaves out: what follows from being near (see `split`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SIDE: Final = 64
"""Side of the picture that a fingerprint is taken of."""
_MEAN: Final = 8
"""Levels of 256 that the mean red, green or blue of near images may differ."""


def fingerprint(image: Image.Image) -> str:
    """22 hex digits: 16 of the pHash, then the mean red, green and blue.

    Args:
        image: upright RGB, of any size.
    """
    import imagehash
    import numpy as np

    # Twice the side that `phash` shrinks to by itself. The gap lets Pillow go by whole numbers
    # first, which is faster.
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    red, green, blue = small.resize((1, 1), Image.Resampling.BOX).tobytes()
    return (
        f"{np.packbits(imagehash.phash(small).hash).tobytes().hex()}{red:02x}{green:02x}{blue:02x}"
    )


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
