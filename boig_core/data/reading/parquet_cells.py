"""Cells of Parquet as JSON can hold them: text of bytes that are text, times of any unit and zone.

What no cell of a post can be, such as the bytes of an image, stays behind as a fault of its column;
whether the column matters, the recipe says (see `sources`). Leaves out: reading the file (see
`parquet_process`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from boig_core.data.rejects import FAULTS

_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM")
"""Starts of images."""
EMBEDDED: Final = (
    "image_missing",
    "the image is embedded in the Parquet file; write it to a file, and its name into the column",
)
_NO_TEXT: Final = ("encoding", "holds bytes that are not UTF-8")


def leaves_to_read(file: parquet.ParquetFile) -> tuple[list[str], set[str]]:
    """Paths of the columns to read, and the columns that embed images, whose bytes are left
    unread: structs of ``bytes`` and ``path``, as Hugging Face writes them."""
    paths = [file.schema.column(place).path for place in range(len(file.schema))]
    unread = {
        path
        for path in paths
        if path.endswith(".bytes") and path.removesuffix("bytes") + "path" in paths
    }
    embedded = {path.split(".")[0] for path in unread}
    return [path for path in paths if path not in unread], embedded


def rows_of_batch(batch: pa.RecordBatch, embedded: set[str]) -> Iterator[dict[str, Any]]:
    """Rows by the names of columns, each with the faults of its cells under `rejects.FAULTS`.

    Raises:
        ValueError: two columns have one name.
    """
    names = batch.schema.names
    if len(set(names)) != len(names):
        raise ValueError("two columns have one name")
    columns = [_cells(column) for column in batch.columns]
    for cells in zip(*columns, strict=True):
        faults = {
            name: cell.code_and_reason
            for name, cell in zip(names, cells, strict=True)
            if isinstance(cell, _Fault)
        }
        row = {
            name: None if isinstance(cell, _Fault) else cell
            for name, cell in zip(names, cells, strict=True)
        }
        faults |= {name: EMBEDDED for name in embedded if row.get(name)}
        yield row | {FAULTS: faults} if faults else row


class _Fault:
    """In place of a cell."""

    def __init__(self, code_and_reason: tuple[str, str]) -> None:
        self.code_and_reason = code_and_reason


def _cells(column: pa.Array[Any]) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind) and (kind.unit == "ns" or kind.tz):
        # Python holds no nanoseconds, and not every machine knows every zone.
        unit = "us" if kind.unit == "ns" else kind.unit
        column = column.cast(pa.timestamp(unit, "UTC" if kind.tz else None), safe=False)
    try:
        cells = column.to_pylist()
    except (ValueError, OverflowError):  # of one of them
        cells = [_cell(scalar) for scalar in column]
    return [_plain_cell(cell) for cell in cells] if _holds_bytes(kind) else cells


def _cell(scalar: pa.Scalar[Any]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _Fault(_NO_TEXT)
    except (ValueError, OverflowError):
        return f"{getattr(scalar, 'value', '')} as {scalar.type}"


def _holds_bytes(kind: pa.DataType) -> bool:
    return "binary" in str(kind)


def _plain_cell(cell: Any) -> Any:
    try:
        return _plain(cell)
    except UnicodeDecodeError:
        is_image = isinstance(cell, bytes) and cell.startswith(_MAGIC)
        return _Fault(EMBEDDED if is_image else _NO_TEXT)


def _plain(value: Any) -> Any:
    """Text in place of bytes, which old writers do not mark as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
