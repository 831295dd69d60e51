"""Reach: where the images that a posts file names may lie, whoever wrote the posts.

A posts file may name web addresses and what lies below its own folder; beyond that, only what lies
below a root that the operator allows. Links, ``..`` and percent signs lead nowhere else. Leaves
out: which hosts of the web are refused (see `web`), and reading (see `fetch`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from boig_core.config.locations import file_url_path, is_windows, lies_below, without_links
from boig_core.data.fetching.references import in_other_case, spellings
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError
from boig_core.storage import store

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_KEY: Final = 1024
"""Bytes of a key, by the rules of S3: a server answers a longer one like a fault of its own."""


class ImageReference(NamedTuple):
    """An image as a post names it.

    Attributes:
        base: folder of the posts file, without a trailing slash; what it is does not matter to a
            web address.
        address: a location that may be relative no more: a path, ``file://``, ``s3://``, ``http://``
            or ``https://``.
    """

    base: str
    address: str


@dataclass(frozen=True)
class Reach:
    """What the posts files of one ingestion may name.

    Attributes:
        roots: folders and ``s3://BUCKET/PREFIX``, normalized, that they may name beside their own.
    """

    roots: tuple[str, ...] = ()

    @classmethod
    def of(cls, roots: Iterable[str]) -> Reach:
        """The reach that these roots allow.

        Raises:
            InputError: one is no location.
        """
        return cls(tuple(map(store.normalize_source, roots)))

    def locations(self, reference: ImageReference) -> Iterator[str]:
        """The places that a reference may mean, the one that it names first: exports are written on
        machines where a name is spelled otherwise. Each is held to the same rules.

        Raises:
            Rejected: as `locate`.
        """
        place = self.locate(reference)
        yield place
        base, address = reference
        if address.lower().startswith(("http://", "https://")):
            return
        # What the posts did not write, their folder, is spelled right.
        head = f"{base}/" if address.startswith(f"{base}/") else ""
        names = list(spellings(address.removeprefix(head)))
        if address.lower().startswith("file://"):
            # Many write a plain path behind the scheme, percent signs and all.
            path = f"/{address[len('file://') :].partition('/')[2]}"
            names = [path, *spellings(path)]
        others = list(self._allowed(base, (head + name for name in names)))
        yield from others
        if not _SCHEME.match(place):
            yield from self._allowed(base, filter(None, map(in_other_case, [place, *others])))

    def _allowed(self, base: str, addresses: Iterable[str]) -> Iterator[str]:
        for address in addresses:
            with suppress(Rejected):
                yield self.locate(ImageReference(base, address))

    def locate(self, reference: ImageReference) -> str:
        """The place that a reference leads to: a web address, an S3 location, or a path without
        links.

        Raises:
            Rejected: ``place_refused`` when it leads elsewhere than posts of that base may, or
                ``image_missing`` when it can be no location.
        """
        base, address = reference
        scheme = match[1].lower() if (match := _SCHEME.match(address)) else ""
        if scheme in {"http", "https"}:
            return address
        if base.lower().startswith(("http://", "https://")):
            raise Rejected(
                "place_refused",
                f"{address} is no web address, and posts from the web name no other",
            )
        if scheme == "s3":
            return self._in_s3(base, f"s3://{address[5:]}")
        if is_windows(address):
            raise _of_windows(address)
        if scheme not in {"", "file"} or not (scheme or address.startswith("/")):
            raise Rejected("image_missing", f"{address} is no location that can be fetched")
        return self._on_disk(base, _path(address) if scheme else address)

    def _in_s3(self, base: str, uri: str) -> str:
        _, key = store.bucket_and_key(uri)
        # A server, or a proxy before it, might resolve what is only a name to S3.
        if _climbs(key) or not any(
            lies_below(uri, place) for place in (_own_folder(base), *self.roots)
        ):
            raise _refused(uri)
        if _CONTROL.search(key) or len(key.encode()) > _LONGEST_KEY:
            raise Rejected("image_missing", f"{uri} is no key of S3")
        return uri

    def _on_disk(self, base: str, path: str) -> str:
        if "\0" in path:
            raise Rejected("image_missing", f"{path!r} is no path")
        resolved = without_links(path)
        if resolved is None:
            raise _refused(f"{path}, whose links lead in a circle,")
        # Places may be links themselves, as are many mounts. The folder of /posts.jsonl is "/".
        folders = (
            os.path.realpath(place or "/")
            for place in (_own_folder(base), *self.roots)
            if not _SCHEME.match(place)
        )
        if not any(lies_below(resolved, folder) for folder in folders):
            raise _refused(path if path == resolved else f"{path}, which is {resolved},")
        return resolved


def _own_folder(base: str) -> str:
    """Folder of the posts; that around a folder ``posts.parquet`` of parts and partitions, which is
    one file to whoever wrote it."""
    return re.sub(r"/[^/]+\.parquet(/\w+=[^/]*)*$", "", base)


def _refused(location: str) -> Rejected:
    return Rejected(
        "place_refused",
        f"{location} lies neither below the folder of the posts nor below an allowed root",
    )


def _path(address: str) -> str:
    """Path of a ``file://`` address."""
    try:
        urlsplit(address)
    except ValueError as exc:
        raise Rejected("image_missing", f"{address} is no URL ({exc})") from exc
    try:
        path = file_url_path(address)
    except InputError as exc:
        raise Rejected("place_refused", f"{address} {exc.rule}") from exc
    if is_windows(path.removeprefix("/")):
        raise _of_windows(address)
    return path


def _of_windows(address: str) -> Rejected:
    return Rejected(
        "image_missing",
        f"{address} is a path of a Windows machine; posts name images by their way from the posts file",
    )


def _climbs(key: str) -> bool:
    """Whether a key has a ``..`` segment, as often as it may be quoted."""
    while (plain := unquote(key)) != key:
        key = plain
    return ".." in re.split(r"[/\\]", key)
