"""HEIC and AVIF: which decoder reads a file of the box format that both share.

Their decoders are loaded once the first such file comes, so that only processes which decode
foreign images have them. They use one thread each: the memory of more would count against an
image's limit. Leaves out: what becomes of the pixels (see `images`).
"""

from __future__ import annotations

import functools
from typing import Final

from boig_core.data.rejects import Rejected

_AVIF: Final = frozenset({b"avif", b"avis"})
_SEQUENCES: Final = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
_STILL: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1"})


def box_formats(data: bytes) -> tuple[str, ...]:
    """Pillow's name of the format of a file of boxes, ready to be opened; empty: it is none.

    Raises:
        Rejected: ``image_animated``: it is a sequence. ``image_unreadable``: nothing here reads it.
    """
    if data[4:8] != b"ftyp":
        return ()
    size = min(int.from_bytes(data[:4], "big"), 256)
    first = data[8:12]
    brands = {first, *(data[at : at + 4] for at in range(16, size, 4))}
    if first in _AVIF or (first in {b"mif1", b"msf1"} and brands & _AVIF):
        _ready_avif()
        return ("AVIF",)
    if first in _SEQUENCES:
        raise Rejected("image_animated", "an animated HEIC; a description is of one image")
    if first not in _STILL:
        return ()
    try:
        _ready_heic()
    except ImportError as exc:
        raise Rejected(
            "image_unreadable", f"a HEIC, which the package pillow-heif reads, but: {exc}"
        ) from exc
    return ("HEIF",)


@functools.cache
def _ready_avif() -> None:
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@functools.cache
def _ready_heic() -> None:
    import pillow_heif

    # Previews and maps of depth are read by nobody here.
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
