"""Shards of images are the same wherever their bytes are put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from boig_core.data import tables
from boig_core.data.imaging.images import StoredImage


@given(files=st.lists(st.binary(max_size=9), max_size=5), size=st.integers(0, 50))
def test_images_are_kept_whatever_room_there_is(files: list[bytes], size: int) -> None:
    images = [StoredImage(file, "0" * 64, 1, 1, "0" * 22) for file in files]
    room = memoryview(bytearray(b"\xff" * size))
    table = tables.image_table(images, room)
    assert table["image"].to_pylist() == files
    assert table.equals(tables.image_table(images))
    if sum(map(len, files)) <= size:
        assert bytes(room).startswith(b"".join(files))
