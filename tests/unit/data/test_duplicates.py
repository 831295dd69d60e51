"""Near-duplicates: fingerprints outlive compression and size and see colors; pairs are those that
comparing each with each finds."""

import io
import subprocess
import sys

import duckdb
import imagehash
import numpy as np
import pytest
from PIL import Image

from boig_core.data.imaging.duplicates import components, fingerprint, near_pairs

from .conftest import picture


def distance(one: str, other: str) -> int:
    return (int(one[:16], 16) ^ int(other[:16], 16)).bit_count()


def mean_difference(one: str, other: str) -> int:
    return max(
        abs(a - b) for a, b in zip(bytes.fromhex(one[16:]), bytes.fromhex(other[16:]), strict=True)
    )


@pytest.mark.parametrize("seed", range(8))
def test_compression_and_size_leave_a_fingerprint_near_and_another_picture_is_far(
    seed: int,
) -> None:
    with Image.open(io.BytesIO(picture(seed, side=512))) as image:
        own = fingerprint(image)
    for quality, side in ((90, 512), (40, 512), (70, 200)):
        with Image.open(io.BytesIO(picture(seed, "JPEG", side, quality=quality))) as again:
            other = fingerprint(again)
        assert distance(own, other) <= 3
        assert mean_difference(own, other) <= 4
    with Image.open(io.BytesIO(picture(seed + 100))) as another:
        assert distance(own, fingerprint(another)) > 7


def test_walls_of_different_colors_are_not_near() -> None:
    red, green = (fingerprint(Image.new("RGB", (90, 60), color)) for color in ("red", "green"))
    assert distance(red, green) <= 3
    assert mean_difference(red, green) > 8


@pytest.mark.parametrize("kind", ["noise", "one color", "bands", "squares"])
@pytest.mark.parametrize("seed", range(10))
def test_the_bits_are_those_of_imagehash_also_where_waves_are_equal(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = {"noise": (90, 70, 3), "one color": (1, 1, 3), "bands": (64, 1, 3)}.get(kind)
    cells = rng.integers(0, 256, shape, dtype=np.uint8) if shape else np.indices((64, 64)).sum(0)
    pixels = np.broadcast_to(cells, (64, 64, 3)) if kind in {"one color", "bands"} else cells
    if kind == "squares":
        pixels = np.repeat((cells // (seed + 1) % 2 * 255)[..., None], 3, axis=2).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    small = image.resize((64, 64), Image.Resampling.BOX, reducing_gap=2.0)
    assert fingerprint(image)[:16] == str(imagehash.phash(small))


def test_a_photograph_needs_no_scipy() -> None:
    """Which each process that decodes would load."""
    code = (
        "import sys, numpy; from PIL import Image; from boig_core.data.imaging.duplicates import fingerprint;"
        "fingerprint(Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype='u1')));"
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("bits", [0, 1, 3, 7])
def test_pairs_are_those_of_comparing_each_with_each(bits: int) -> None:
    rng = np.random.default_rng(bits)
    prints = []
    for _ in range(150):
        base, color = int(rng.integers(0, 2**63)), rng.integers(100, 110, 3)
        for flips in rng.integers(0, 9, 3):
            flipped = base
            for bit in rng.choice(64, flips, replace=False):
                flipped ^= 1 << int(bit)
            prints.append(
                f"{flipped:016x}" + bytes((color + rng.integers(0, 11, 3)).tolist()).hex()
            )
    con = duckdb.connect()
    con.execute("CREATE TABLE image (fingerprint VARCHAR)")
    con.executemany("INSERT INTO image VALUES (?)", [(item,) for item in prints])
    distinct = sorted(set(prints))
    expected = [
        (item, other)
        for at, item in enumerate(distinct)
        for other in distinct[at + 1 :]
        if distance(item, other) <= bits and mean_difference(item, other) <= 8
    ]
    assert near_pairs(con, "image", bits) == expected
    assert expected


def test_what_hangs_together_has_its_smallest_name() -> None:
    assert components([("c", "b"), ("d", "e"), ("a", "c")]) == {
        "a": "a",
        "b": "a",
        "c": "a",
        "d": "d",
        "e": "d",
    }
    assert components([]) == {}
