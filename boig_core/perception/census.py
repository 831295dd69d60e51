"""Colors and tones of images in one pass: every pixel is looked up once, and what is counted gives
both.

Names are looked up by RGB cell (`colors.cell_names`). The same table codes the tone, by the rule of
`tones` for each single RGB value: in most cells all 64 values have one tone; the cells that a
threshold cuts are open, and have a finer table of their 64 values.

Images of at most `EDGE_SIDE` go through `colors.unmix` first: there, edges are a large share of the
pixels. In larger ones the names that edges make up stay below `min_coverage` and are folded away,
while unmixing costs over twenty times what counting does. Decision 0008 has the numbers. Leaves
out: what the names and tones mean (see `colors`, `tones`).

Shape letters: B images, H height, W width, C = 3 channels, N pixels, P names of the palette, T
tones, D cells, S cells and K corners along an axis, A cells that were asked for every value, V
values of cells.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from boig_core.perception.colors import (
    CELL,
    CELLS,
    NAMES,
    cell_names,
    name_shares,
    to_hundredths,
    to_oklab,
    unmix,
)
from boig_core.perception.tones import tones_of
from boig_core.vocabulary import TONES

EDGE_SIDE: Final = 128
"""Up to this side in pixels the mixtures of downsized edges are undone before anything is
counted."""
# With 40 names and 3 tones all codes, open ones too, stay below 256 and fit into a byte.
_OPEN: Final = len(TONES) * len(NAMES)
"""Codes are tone x P + name; from this one on the tone is open, and the code is this number +
name."""


class _Table(NamedTuple):
    """Codes of RGB values.

    Attributes:
        code_D: the code of every cell.
        first_D: where the values of an open cell begin in ``code_V``; 0 for the others.
        code_V: the codes of the 64 values of every open cell.
    """

    code_D: NDArray[np.uint8]
    first_D: NDArray[np.intp]
    code_V: NDArray[np.uint8]


def measure(
    rgb_BHWC: NDArray[np.uint8], max_colors: int, min_coverage: float
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Colors and tones of each image.

    Args:
        rgb_BHWC: images, all of one size.
        max_colors: at most this many names per image.
        min_coverage: names that cover less are folded into the kept name that looks most like them.

    Returns:
        For each image its names with coverage, the largest first, and its tones with coverage in
        the order of `TONES`. Coverages are hundredths that sum to exactly 1.
    """
    # Before anything is counted, since names and tones must be of the same pixels.
    if max(rgb_BHWC.shape[1:3]) <= EDGE_SIDE:
        rgb_BHWC = unmix(rgb_BHWC)
    counts_BTP = [count(rgb_HWC) for rgb_HWC in rgb_BHWC]
    named = [
        name_shares(counts_TP.sum(axis=0), max_colors, min_coverage) for counts_TP in counts_BTP
    ]
    toned = [
        dict(zip(TONES, to_hundredths(counts_TP.sum(axis=1)), strict=True))
        for counts_TP in counts_BTP
    ]
    return named, toned


def count(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Pixels of each tone and name, (T, P). One image at a time: the indices in between take
    several times its bytes."""
    table = _table()
    rgb_NC = rgb_HWC.reshape(-1, 3)
    cell_N = _join(rgb_NC // CELL, CELLS)
    code_N = table.code_D.take(cell_N)
    counts = np.bincount(code_N, minlength=_OPEN)[:_OPEN]
    open_N = np.flatnonzero(code_N >= _OPEN)
    if len(open_N):
        value_N = table.first_D.take(cell_N.take(open_N))
        value_N += _join(rgb_NC.take(open_N, axis=0) & (CELL - 1), CELL)
        counts += np.bincount(table.code_V.take(value_N), minlength=_OPEN)
    return counts.reshape(len(TONES), len(NAMES))


def _join(digits_NC: NDArray[np.integer[Any]], base: int) -> NDArray[np.intp]:
    """The number that three digits write."""
    # Wide first: digits come as bytes, whose products would wrap around.
    number_N = digits_NC[:, 0].astype(np.intp)
    for channel in (1, 2):
        number_N *= base
        number_N += digits_NC[:, channel]
    return number_N


@cache
def _table() -> _Table:
    """Made once a process, in about a quarter of a second."""
    # A cell with corners of one tone, amid cells of which the same is true, has one tone
    # throughout; a test asks all 16.7 million values.
    # Cells share corners, so there is one more along an axis than cells; the last would be level
    # 256.
    corner_KKK = _tones_of_levels(np.minimum(np.arange(0, 257, CELL), 255))
    eight = [
        corner_KKK[r : r + CELLS, g : g + CELLS, b : b + CELLS]
        for r in (0, 1)
        for g in (0, 1)
        for b in (0, 1)
    ]
    cut_SSS = np.min(eight, axis=0) != np.max(eight, axis=0)
    # The neighbors are asked too: a limit may bend into a cell and miss its corners.
    asked_D = ndimage.binary_dilation(cut_SSS, np.ones((3, 3, 3))).ravel()

    asked = np.flatnonzero(asked_D)
    inside_VC = np.indices((CELL,) * 3).reshape(3, -1).T
    corner_AC = np.stack(np.unravel_index(asked, (CELLS,) * 3), axis=-1) * CELL
    value_NC = (corner_AC[:, None] + inside_VC).reshape(-1, 3).astype(np.uint8)
    name_D = cell_names().ravel()
    code_AV = (
        tones_of(to_oklab(value_NC)).reshape(-1, len(inside_VC)) * len(NAMES) + name_D[asked, None]
    )
    several_A = (code_AV != code_AV[:, :1]).any(axis=1)

    code_D = eight[0].ravel() * len(NAMES) + name_D
    code_D[asked] = np.where(several_A, _OPEN + name_D[asked], code_AV[:, 0])
    first_D = np.zeros(len(code_D), np.intp)
    first_D[asked[several_A]] = np.arange(several_A.sum()) * len(inside_VC)
    return _Table(code_D.astype(np.uint8), first_D, code_AV[several_A].ravel().astype(np.uint8))


def _tones_of_levels(levels: NDArray[np.intp]) -> NDArray[np.uint8]:
    """The tone of every combination of three levels, a cube."""
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).astype(np.uint8)
    return tones_of(to_oklab(cube.reshape(-1, 3))).reshape(cube.shape[:3])
