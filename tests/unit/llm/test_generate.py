from __future__ import annotations

from pathlib import Path

import pytest

from boig_core.errors import InputError
from boig_core.llm.generate import load_llm, parse_or_none
from boig_core.verbalization.answer import print_answer
from boig_core.vocabulary import Description

LOOK = Description(
    {"Red": 0.6, "White": 0.4},
    {"warm": 0.6, "neutral": 0.4, "cool": 0.0},
    {"ball": (1.0, 2.0, 30.0, 40.0)},
)


def test_an_answer_is_read_back_and_a_broken_one_is_none() -> None:
    text = print_answer(LOOK)
    assert parse_or_none(text) == LOOK
    for broken in (
        text[:-1],
        "",
        text.replace("Red", "Reddish"),
        text.replace("[1,2,30,40]", "[30,2,1,40]"),
        "[1]",
    ):
        assert parse_or_none(broken) is None


def test_of_a_name_written_twice_the_first_counts() -> None:
    text = print_answer(LOOK).replace("[1,2,30,40]", '[1,2,30,40],"ball":[9,9,10,10]')
    assert parse_or_none(text) == LOOK


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        load_llm(tmp_path)
