"""Files of a model that are pointers, empty, cut off or missing are told before anything opens
them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from boig_core.errors import InputError
from boig_core.models.files import check_file, weight_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n"
WHOLE = save({"a": np.arange(6.0), "b": np.zeros((2, 3), np.float16)}, {"format": "pt"})


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "pytorch_model.bin", "a.model"]
)
@pytest.mark.parametrize(
    ("content", "rule"), [(POINTER, "Git LFS pointer"), (b"", "empty"), (None, "lacks the file")]
)
def test_a_file_that_is_not_there_is_named(
    name: str, content: bytes | None, rule: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rule) as caught:
        check_file(tmp_path / name, "a/b")
    assert name in str(caught.value)


@given(length=st.integers(1, len(WHOLE) - 1))
def test_weights_cut_off_anywhere_are_refused(
    length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "model.safetensors"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(InputError):
        check_file(path, "a/b")


@given(header=st.binary(max_size=40))
def test_a_header_of_any_bytes_is_one_error(
    header: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with pytest.raises(InputError):
        check_file(path, "a/b")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000], ids=["cut", "bytes", "deep"])
def test_a_setting_that_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json that is no JSON"):
        check_file(tmp_path / "config.json", "a/b")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(InputError, match=r"config\.json that cannot be read .*Permission denied"):
        check_file(tmp_path / "config.json", "a/b")


def test_what_is_whole_passes(tmp_path: Path) -> None:
    for name, arrays in {"some": {"a": np.arange(6.0)}, "none": {}}.items():
        save_file(arrays, tmp_path / f"{name}.safetensors")
        check_file(tmp_path / f"{name}.safetensors", "a/b")


def test_the_files_that_are_read_are_those_of_transformers(tmp_path: Path) -> None:
    def names() -> list[str]:
        return [path.name for path in weight_files(tmp_path, "a/b", "model", "pytorch_model")]

    with pytest.raises(InputError, match="holds no weights"):
        names()
    shards = {"weight_map": {"a": "2.bin", "b": "1.bin", "c": "1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(shards))
    with pytest.raises(InputError, match=r"lacks 2 of the 2 shards .* 1\.bin"):
        names()
    for name in ("1.bin", "2.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert names() == ["1.bin", "2.bin"]
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        assert names() == [name]


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 1}'])
def test_an_index_without_weights_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="lists no weights"):
        weight_files(tmp_path, "a/b", "model", "pytorch_model")


def test_a_look_at_files_needs_no_torch() -> None:
    code = "import sys, boig_core.models.files, boig_core.models.opening; print({'torch', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
