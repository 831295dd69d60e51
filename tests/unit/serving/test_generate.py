"""Images of a published model: what is written, what is refused, what is left after a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boig_core.errors import CorruptError, InputError
from boig_core.serving import generate as generating
from boig_core.serving.gallery import GALLERY
from boig_core.serving.generate import RECORD, GenerationRequest, generate
from boig_core.serving.provenance import read_origin
from boig_core.serving.published import open_published, require_text

TEXT = "A <b>ball</b> & \u202esale"


def made(aligned: str, out: Path, count: int = 3, seed: int = 7, ranked: bool = False) -> Any:
    model = open_published(aligned, out.parent / "scratch")
    return generate(model, GenerationRequest(TEXT, "acme", count, seed, ranked), out)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of no model, for what happens to them."""

    def sample(model: Any, request: GenerationRequest, progress: Any) -> Any:
        rng = np.random.default_rng(request.seed)
        return rng.integers(0, 256, (request.count, 8, 8, 3), np.uint8)

    monkeypatch.setattr(generating, "sample", sample)


def pixels(folder: Path) -> dict[int, Any]:
    record = json.loads((folder / RECORD).read_text())
    return {row["seed"]: np.asarray(Image.open(folder / row["file"])) for row in record["images"]}


def test_images_say_where_they_come_from(aligned: str, tmp_path: Path) -> None:
    record = made(aligned, tmp_path / "out")
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == record
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        RECORD,
        GALLERY,
        *(row["file"] for row in record["images"]),
    }
    manifest = open_published(aligned, tmp_path).record
    for row in record["images"]:
        origin = read_origin((tmp_path / "out" / row["file"]).read_bytes())
        assert origin is not None
        assert origin.seed == row["seed"]
        assert origin.generation == record["generation"]
        assert origin.manifest == manifest.digest()
        assert aligned.endswith(origin.model)
    # Where the store lies is nobody's business who gets the file.
    assert str(tmp_path.parent) not in (tmp_path / "out" / RECORD).read_text()


def test_an_image_is_a_function_of_its_seed_alone(aligned: str, tmp_path: Path) -> None:
    made(aligned, tmp_path / "few", count=2, seed=8)
    made(aligned, tmp_path / "many", count=6, seed=5)
    few, many = pixels(tmp_path / "few"), pixels(tmp_path / "many")
    assert set(few) <= set(many)
    for seed, image in few.items():
        assert (image == many[seed]).all()


@pytest.mark.usefixtures("noise")
def test_the_best_comes_first(aligned: str, tmp_path: Path) -> None:
    record = made(aligned, tmp_path / "out", count=5, ranked=True)
    rewards = [row["reward"] for row in record["images"]]
    assert rewards == sorted(rewards, reverse=True)
    assert len(set(rewards)) > 1
    assert record["ranked_by"] == "contrast"
    assert sorted(row["seed"] for row in record["images"]) == [7, 8, 9, 10, 11]


@pytest.mark.usefixtures("noise")
def test_the_page_shows_text_as_text(aligned: str, tmp_path: Path) -> None:
    made(aligned, tmp_path / "out")
    page = (tmp_path / "out" / GALLERY).read_text()
    assert "<b>ball</b>" not in page
    assert "&lt;b&gt;ball" in page
    assert "default-src 'none'" in page
    assert page.count("data:image/png") == 3


@pytest.mark.parametrize("what", ["a file in it", "a file"])
@pytest.mark.usefixtures("noise")
def test_nothing_is_written_over(aligned: str, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        made(aligned, out)
    assert (out if what == "a file" else out / "mine").read_text() == "mine"


@pytest.mark.usefixtures("noise")
def test_an_empty_folder_will_do(aligned: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made(aligned, tmp_path / "out", count=1)
    assert (tmp_path / "out" / RECORD).is_file()


@pytest.mark.parametrize("at", ["render", "png_of", "sample"])
@pytest.mark.usefixtures("noise")
def test_a_failure_leaves_nothing(
    aligned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(generating, at, fail)
    with pytest.raises(RuntimeError, match="made to fail"):
        made(aligned, tmp_path / "below" / "out")
    assert not (tmp_path / "below").exists() or not list((tmp_path / "below").iterdir())


@pytest.mark.usefixtures("noise")
def test_a_write_that_fails_leaves_nothing(
    aligned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == GALLERY:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        made(aligned, tmp_path / "below" / "out")
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["scratch"] or not list(
        (tmp_path / "below").iterdir()
    )


def test_a_model_of_one_changed_byte_is_not_opened(aligned: str, tmp_path: Path) -> None:
    file = Path(aligned) / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(CorruptError, match="differs from its manifest"):
            made(aligned, tmp_path / "out")
    finally:
        file.write_bytes(whole)
    assert not (tmp_path / "out").exists()


def test_another_output_is_no_model(aligned: str, tmp_path: Path) -> None:
    llm = open_published(aligned, tmp_path).job.input("boigllm")
    with pytest.raises(CorruptError, match="is a boigllm, not a sd"):
        open_published(llm, tmp_path)


def test_an_unknown_account_is_told_the_known_ones(aligned: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of acme"):
        open_published(aligned, tmp_path).require_account("nan")


@pytest.mark.parametrize("text", ["", " \n\t", "a lone \ud83d"])
def test_a_text_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="the text of the post"):
        require_text(text)
