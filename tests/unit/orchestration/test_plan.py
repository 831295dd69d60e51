"""What goes into a DAG: an input that is optional is passed on where it is named, checked like any other, and missed by nobody."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boig_core.errors import CorruptError
from boig_core.orchestration.assets import make_plan
from boig_core.storage import commit
from boig_core.storage.manifest import Lineage, publish_folder


def published(root: Path, kind: str) -> str:
    uri, attempt = str(root / "models" / kind), str(root / "runs" / kind)
    (root / kind).mkdir()
    (root / kind / "weights").write_text(kind)
    lineage = Lineage(inputs={}, recipe="r", code="c")
    publish_folder(root / kind, uri, kind=kind, lineage=lineage, commit=f"{attempt}/{commit.COMMIT}")
    commit.commit(attempt, {kind: uri}, {})
    return uri


def test_an_optional_input_is_passed_on_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path))
    boigllm, predictor = published(tmp_path, "boigllm"), published(tmp_path, "predictor")

    def outputs(event: dict[str, str], **params: str) -> Any:
        context = {"params": params, "ti": SimpleNamespace(dag_id="d", run_id="r")}
        needs, optional = {"boigllm": "boigllm"}, {"predictor": "predictor"}
        return make_plan(context, needs, {"outputs": event}, "tiny", optional=optional)["outputs"]

    assert outputs({"boigllm": boigllm}) == {"boigllm": boigllm}
    both = {"boigllm": boigllm, "predictor": predictor}
    assert outputs(both) == both
    assert outputs({"boigllm": boigllm}, predictor=predictor) == both
    with pytest.raises(CorruptError, match="is a boigllm, not a predictor"):
        outputs(both, predictor=boigllm)
