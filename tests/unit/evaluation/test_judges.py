from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boig_core.errors import InputError
from boig_core.evaluation.measure.judges import ClipJudge


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    images = np.random.default_rng(0).integers(0, 255, size=(70, 32, 32, 3), dtype=np.uint8)
    seen = judge.see(images)
    assert seen.embedding_ND.shape == (70, 12)
    assert seen.features_NF.shape == (70, 24)
    np.testing.assert_allclose(np.linalg.norm(seen.embedding_ND, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        judge.see(images[65:66]).embedding_ND, seen.embedding_ND[65:66], atol=1e-5
    )
    assert np.abs(seen.features_NF[0] - seen.features_NF[1]).max() > 1e-3


def test_texts_are_read_one_by_one_whatever_their_length(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    read = judge.read(["red ball", "red box", "red ball box " * 40])
    assert read.shape == (3, 12)
    np.testing.assert_allclose(judge.read(["red ball"])[0], read[0], atol=1e-5)


def test_texts_that_are_cut_are_counted(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    texts = ["red ball", "red ball " * 20, "red ball " * 20 + "box"]
    cuts = judge.cuts(texts, list("abc"))
    assert (cuts.prompts, cuts.cut, cuts.alike, cuts.example) == (3, 2, 2, "b")
    read = judge.read(texts)
    assert (read[1] == read[2]).all()


def test_half_a_character_is_a_user_error(clip_folder: Path) -> None:
    judge = ClipJudge(str(clip_folder))
    for ask in (judge.read, lambda texts: judge.cuts(texts, texts)):
        with pytest.raises(InputError, match="half a character"):
            ask(["red", "a \ud83d b"])


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model: there is no config"):
        ClipJudge(str(tmp_path))
