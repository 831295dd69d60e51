from __future__ import annotations

import sys

import pytest

from boig_core.llm.architecture import positions_of, text_config
from boig_core.llm.packing import layout_for
from boig_core.llm.regression import add_head
from tests.unit.llm.architectures import CONFIGS, build_model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_any_architecture_says_how_wide_it_is_and_how_far_it_reads(name: str) -> None:
    model = build_model(name, 64)
    assert text_config(model).vocab_size == 64
    assert layout_for(model, 0, 128, packing=True).hidden == 32
    assert add_head(model).in_features == 32
    endless = name in {"bloom", "mamba"}
    assert positions_of(model) == (sys.maxsize if endless else 256) or name == "falcon"


def test_a_length_below_one_is_none() -> None:
    from transformers import XLNetConfig, XLNetLMHeadModel

    config = XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=2, d_inner=64)
    assert positions_of(XLNetLMHeadModel(config)) == sys.maxsize
