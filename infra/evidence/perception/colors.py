"""Are colors measured right, and how fast? Images of known composition, and images per second and
core beside two public libraries.

Accuracy: each image is 640 x 640, split at random into 2 to 5 colors of the palette (cells, bands,
or discs and boxes on a ground), each covering at least 4 %, every color flat or a gradient that
stays within its name, with noise of up to 4 levels, as a JPEG of quality 90. It is decoded,
area-downsized to the side and measured. What counts is the pair of an image and one of its colors:
is it named, is its coverage within 0.02 of the composition's. Images with a name that is not in the
composition are counted apart. `measure` undoes mixtures at small sides alone (decision 0008), so
each side is shown without and with it as well.

Rate: CPU time of one process from uint8 arrays in memory to names and tones, 512 x 512; decoding
and resizing are not in it. Median of repeated rounds after a warm one. Beside it, in the same run
and on the same images, the nearest that libraries offer, for names alone:

* scikit-image's ``rgb2lab`` and the nearest of the 40 colors by SciPy's ``cKDTree``: perceptual
  (CIELAB), every pixel on its own.
* Pillow's ``quantize`` to the palette and ``histogram``: nearest in RGB, not perceptual.

    OMP_NUM_THREADS=1 python -m infra.evidence.perception.colors [--images 400] [--rounds 9] [--json
        colors.json]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from skimage import data
from skimage.color import rgb2lab

from boig_core.perception.census import count, measure
from boig_core.perception.colors import NAMES, name_shares, to_oklab, unmix
from boig_core.vocabulary import PALETTE
from infra.evidence import published

CANVAS: Final = 640
SIDES: Final = (32, 64, 128, 256, 512)
MAX_COLORS: Final = 5
MIN_COVERAGE: Final = 0.04
TOLERANCE: Final = 0.02
RATE_SIDE: Final = 512
PHOTOS: Final = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")
_RGB_PC: Final = np.array(list(PALETTE.values()), np.float64)
_Y_HW, _X_HW = np.mgrid[:CANVAS, :CANVAS] / CANVAS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    known = compositions(args.images)
    result = {
        "accuracy": {
            f"side {side}, {way}": accuracy(known, side, name)
            for side in SIDES
            for way, name in NAMERS.items()
        },
        "rate": rates(args.rounds),
    }
    for case, row in result["accuracy"].items():
        print(f"{case}: " + " · ".join(f"{name} {value}" for name, value in row.items()))
    for images, row in result["rate"].items():
        print(f"{images}: " + " · ".join(f"{name} {value:.0f}/s" for name, value in row.items()))
    if args.json:
        published.save(args.json, result)


def _names_measured(image_HWC: NDArray[np.uint8]) -> dict[str, float]:
    return measure(image_HWC[None], MAX_COLORS, MIN_COVERAGE)[0][0]


def _names_as_they_are(image_HWC: NDArray[np.uint8]) -> dict[str, float]:
    return name_shares(count(image_HWC).sum(axis=0), MAX_COLORS, MIN_COVERAGE)


def _names_unmixed(image_HWC: NDArray[np.uint8]) -> dict[str, float]:
    return _names_as_they_are(unmix(image_HWC[None])[0])


NAMERS: Final = {
    "as shipped": _names_measured,
    "never unmixed": _names_as_they_are,
    "always unmixed": _names_unmixed,
}


def compositions(images: int, seed: int = 0) -> list[tuple[bytes, Mapping[str, float]]]:
    """Compositions; of 40, each color of the palette is in at least one."""
    return [compose(np.random.default_rng([seed, i]), NAMES[i % len(NAMES)]) for i in range(images)]


def accuracy(
    known: Sequence[tuple[bytes, Mapping[str, float]]],
    side: int,
    name: Callable[[NDArray[np.uint8]], dict[str, float]] = _names_measured,
) -> dict[str, Any]:
    """How ``name`` does on compositions at ``side``. A color that is not named counts as covering
    nothing."""
    named, errors, invented = [], [], 0
    for file, truth in known:
        seen = name(_decoded(file, side))
        named += [color in seen for color in truth]
        errors += [abs(seen.get(color, 0.0) - share) for color, share in truth.items()]
        invented += not seen.keys() <= truth.keys()
    return {
        "images": len(known),
        "pairs": len(named),
        "named": round(float(np.mean(named)), 4),
        "coverage_within": round(float(np.mean(np.array(errors) <= TOLERANCE)), 4),
        "mean_error": round(float(np.mean(errors)), 4),
        "largest_error": round(float(np.max(errors)), 4),
        "images_with_invented_name": invented,
    }


def _decoded(file: bytes, side: int) -> NDArray[np.uint8]:
    return _square(Image.open(io.BytesIO(file)), side)


def _square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX))


def compose(rng: np.random.Generator, first: str) -> tuple[bytes, Mapping[str, float]]:
    """A JPEG of colors of the palette, ``first`` among them, and the coverage of each."""
    others = rng.permutation([name for name in NAMES if name != first])[
        : rng.integers(1, MAX_COLORS)
    ]
    names = [str(name) for name in rng.permutation([first, *others])]
    shares = np.zeros(1)
    # A color that covers less need not be named, so it would be no fair miss.
    while shares.min() < MIN_COVERAGE:
        label_HW = _areas(rng, len(names))
        shares = np.bincount(label_HW.ravel(), minlength=len(names)) / label_HW.size
    image_HWC = np.zeros((CANVAS, CANVAS, 3))
    for i, name in enumerate(names):
        area_HW = label_HW == i
        image_HWC[area_HW] = _fill(rng, NAMES.index(name), area_HW)
    image_HWC += rng.normal(0, rng.uniform(0, 4), image_HWC.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=90
    )
    return file.getvalue(), dict(zip(names, shares.tolist(), strict=True))


def _areas(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
    """A random split of the canvas into ``count`` areas."""
    kind = rng.integers(3)
    if kind == 0:  # cells around random points, up to three an area
        owners = np.concatenate(
            [np.arange(count), rng.integers(0, count, rng.integers(0, 2 * count + 1))]
        )
        points = rng.random((len(owners), 2))
        return np.asarray(
            owners[np.argmin([(_Y_HW - y) ** 2 + (_X_HW - x) ** 2 for y, x in points], axis=0)]
        )
    if kind == 1:
        along_HW = _along(rng)
        return np.searchsorted(np.quantile(along_HW, np.sort(rng.random(count - 1))), along_HW)
    label_HW = np.zeros((CANVAS, CANVAS), np.intp)
    for area in range(1, count):
        for _ in range(rng.integers(1, 3)):
            y, x = rng.random(2)
            height, width = rng.uniform(0.08, 0.3, 2)
            down_HW, right_HW = np.abs(_Y_HW - y) / height, np.abs(_X_HW - x) / width
            label_HW[
                (down_HW**2 + right_HW**2 < 1)
                if rng.random() < 0.5
                else (np.maximum(down_HW, right_HW) < 1)
            ] = area
    return label_HW


def _along(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, np.pi)
    return np.asarray(_X_HW * np.cos(angle) + _Y_HW * np.sin(angle))


def _fill(rng: np.random.Generator, index: int, area_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Colors of an area's pixels (N, C): flat, or from the color of the palette up to a third of
    the way to another, within its name."""
    color_C = _RGB_PC[index]
    if rng.random() < 0.5:
        return np.broadcast_to(color_C, (int(area_HW.sum()), 3))
    toward_C, reach = _RGB_PC[rng.integers(len(NAMES))] - color_C, 0.35
    # Room for the noise: the gradient ends well before the border to the next name.
    while (_nearest(color_C + np.linspace(0, 1.4 * reach, 9)[:, None] * toward_C) != index).any():
        reach /= 2
    along_N = _along(rng)[area_HW]
    return np.asarray(
        color_C + reach * ((along_N - along_N.min()) / np.ptp(along_N))[:, None] * toward_C
    )


def _nearest(rgb_NC: NDArray[np.float64]) -> NDArray[np.intp]:
    lab_N1C, palette_PC = (
        to_oklab(np.rint(rgb_NC).astype(np.uint8))[:, None],
        to_oklab(_RGB_PC.astype(np.uint8)),
    )
    return np.asarray(((lab_N1C - palette_PC) ** 2).sum(axis=-1).argmin(axis=-1))


def rates(rounds: int) -> dict[str, dict[str, float]]:
    """Images per second of CPU time, of each way on each set of images."""
    rng = np.random.default_rng(0)
    sets = {
        f"{len(PHOTOS)} photographs": [
            _square(Image.fromarray(getattr(data, name)()), RATE_SIDE) for name in PHOTOS
        ],
        "compositions": [
            _decoded(compose(rng, name)[0], RATE_SIDE) for name in ("Red", "Gray", "Tan", "Lilac")
        ],
        "uniform noise": [rng.integers(0, 256, (RATE_SIDE, RATE_SIDE, 3), np.uint8)],
        # Just at the limit between neutral and warm: every pixel is looked up a second time.
        "worst case, one shade on a tone's limit": [_limit_shade()],
    }
    ways = {
        "boig colors and tones": _ours,
        "scikit-image and cKDTree, names": _scikit,
        "Pillow quantize, names": _pillow,
    }
    return {
        name: {way: _rate(function, images, rounds) for way, function in ways.items()}
        for name, images in sets.items()
    }


def _rate(
    function: Callable[[NDArray[np.uint8]], object], images: list[NDArray[np.uint8]], rounds: int
) -> float:
    seconds = []
    for _ in range(1 + rounds):
        begin = time.process_time()
        for image_HWC in images:
            function(image_HWC)
        seconds.append(time.process_time() - begin)
    return len(images) / float(np.median(seconds[1:]))


def _limit_shade() -> NDArray[np.uint8]:
    greys = np.stack([np.full(128, 160), np.full(128, 150), np.arange(128)], axis=-1).astype(
        np.uint8
    )
    chroma = np.hypot(*to_oklab(greys)[:, 1:].T)
    # 0.035 is the chroma below which `boig_core.perception.tones` calls a pixel neutral.
    return np.broadcast_to(greys[np.abs(chroma - 0.035).argmin()], (RATE_SIDE, RATE_SIDE, 3)).copy()


def _ours(image_HWC: NDArray[np.uint8]) -> object:
    return measure(image_HWC[None], MAX_COLORS, MIN_COVERAGE)


# The peers' tables are made once, as boig's own are: only looking up is timed.
_TREE: Final = cKDTree(rgb2lab(_RGB_PC / 255))


def _scikit(image_HWC: NDArray[np.uint8]) -> object:
    return np.bincount(_TREE.query(rgb2lab(image_HWC).reshape(-1, 3))[1], minlength=len(NAMES))


# Pillow takes a palette in the form of an image.
_FIXED: Final = Image.new("P", (1, 1))
_FIXED.putpalette(_RGB_PC.astype(np.uint8).tobytes())


def _pillow(image_HWC: NDArray[np.uint8]) -> object:
    return Image.fromarray(image_HWC).quantize(palette=_FIXED, dither=Image.Dither.NONE).histogram()


if __name__ == "__main__":
    main()
