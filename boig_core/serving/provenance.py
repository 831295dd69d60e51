"""What a generated image says of itself: that a trained algorithm made it, by which model, of which
seed.

It stands in the file as XMP, which programs for pictures read and keep: by IPTC's properties for
generated media, and by four of boig's own, by which an image is found again when its post comes
back with its KPIs. The text of the post is told by its digest alone. Leaves out: a signature, which
XMP does not have: whoever edits the file can take these lines away.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from boig_core.errors import InputError
from boig_core.storage.manifest import code_version

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a model made which was trained on samples."""
_KEY: Final = "XML:com.adobe.xmp"
"""Name of the text chunk of a PNG that holds XMP."""
_SPACES: Final = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "boig": "urn:boig:generation:1#",
}
_BEGIN: Final = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END: Final = '\n<?xpacket end="r"?>'


@dataclass(frozen=True)
class ImageOrigin:
    """Where a generated image comes from.

    Attributes:
        generation: id of the call that made it.
        model: place of the model in its store.
        manifest: digest of the model's manifest.
        prompt: SHA-256 of the prompt's UTF-8.
        seed: of the starting noise.
    """

    generation: str
    model: str
    manifest: str
    prompt: str
    seed: int


def prompt_digest(text: str) -> str:
    """SHA-256 of a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()


def png_of(image_HWC: NDArray[np.uint8], origin: ImageOrigin) -> bytes:
    """An image as a PNG that says where it comes from.

    Args:
        image_HWC: uint8 RGB.
        origin: of the image.
    """
    about = PngInfo()
    about.add_itxt(_KEY, xmp_of(origin))
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "PNG", pnginfo=about)
    return file.getvalue()


def xmp_of(origin: ImageOrigin) -> str:
    """The XMP packet of an image."""
    for prefix, space in _SPACES.items():
        ElementTree.register_namespace(prefix, space)
    tool = f"boig {code_version()}"
    facts = {
        ("xmp", "CreatorTool"): tool,
        ("Iptc4xmpExt", "DigitalSourceType"): SOURCE_TYPE,
        ("Iptc4xmpExt", "AISystemUsed"): tool,
        ("Iptc4xmpExt", "AISystemVersionUsed"): origin.model,
        **{("boig", name): str(value) for name, value in vars(origin).items()},
    }
    packet = ElementTree.Element(_name("x", "xmpmeta"))
    tree = ElementTree.SubElement(packet, _name("rdf", "RDF"))
    about = ElementTree.SubElement(tree, _name("rdf", "Description"), {_name("rdf", "about"): ""})
    for (prefix, name), value in facts.items():
        ElementTree.SubElement(about, _name(prefix, name)).text = value
    return _BEGIN + ElementTree.tostring(packet, encoding="unicode") + _END


def read_origin(data: bytes) -> ImageOrigin | None:
    """Where an image file says that it comes from; None: it is no PNG of `png_of`, or has lost its
    XMP.

    Raises:
        InputError: its XMP is of boig's, and cannot be read.
    """
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get(_KEY)
    if not isinstance(packet, str) or _SPACES["boig"] not in packet:
        return None
    try:
        # Entities are what can harm a reader of XML; a packet of ours has no document type.
        if "<!DOCTYPE" in packet:
            raise ElementTree.ParseError("it has a document type")
        tree = ElementTree.fromstring(packet)
        values = {
            name: tree.findtext(f".//{_name('boig', name)}") or ""
            for name in ImageOrigin.__dataclass_fields__
        }
        return ImageOrigin(**{**values, "seed": int(values["seed"])})  # type: ignore[arg-type]
    except (ElementTree.ParseError, ValueError) as exc:
        raise InputError(
            "the XMP of an image", f"cannot be read ({exc})", "take the file that boig has written"
        ) from exc


def _name(prefix: str, name: str) -> str:
    return f"{{{_SPACES[prefix]}}}{name}"
