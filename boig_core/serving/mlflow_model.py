"""A published folder that is an MLflow model, too: what `mlflow.pyfunc.load_model` needs beside the
weights.

It is a model from code: a file of `from_code` is copied into the folder, and MLflow runs it. No
pickle is written. ``MLmodel`` is written here and not by MLflow, which would put the time and a
random id into it: equal models have equal manifests. Leaves out: how MLflow finds the folder (see
`boig_core.orchestration.promotion.artifacts`).
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

from boig_core.config import Recipe

_CODE: Final = Path(__file__).parent / "from_code"
_ALWAYS: Final = ("accelerate", "mlflow-skinny", "numpy", "pandas", "torch", "transformers")


def add_image_model(folder: Path, recipe: Recipe) -> None:
    """Make the folder of an image generator an MLflow model: ``text`` and, if wanted, ``seed`` in,
    ``image`` out, a PNG.

    Args:
        folder: that ``DiffusionPipeline.from_pretrained`` opens.
        recipe: whose evaluation says by how many steps and under which guidance it samples.
    """
    settings = recipe.evaluation
    _add(
        folder,
        "boigsd.py",
        needs=("diffusers", "pillow"),
        inputs={"text": ("string", True), "seed": ("long", False)},
        outputs={"image": ("binary", True)},
        config={"sampling_steps": settings.sampling_steps, "guidance": settings.guidance},
    )


def add_language_model(folder: Path) -> None:
    """Make the folder of a language model an MLflow model: ``prompt`` in, ``answer`` out.

    Args:
        folder: that transformers opens.
    """
    _add(
        folder,
        "boigllm.py",
        needs=(),
        inputs={"prompt": ("string", True)},
        outputs={"answer": ("string", True)},
        config={},
    )


def _add(
    folder: Path,
    code: str,
    needs: tuple[str, ...],
    inputs: Mapping[str, tuple[str, bool]],
    outputs: Mapping[str, tuple[str, bool]],
    config: Mapping[str, Any],
) -> None:
    shutil.copyfile(_CODE / code, folder / code)
    # A build of torch is named after its plus, and no index has it.
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in sorted((*_ALWAYS, *needs))]
    (folder / "requirements.txt").write_text("\n".join([*pins, ""]))
    python = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(yaml.safe_dump(python))
    model = {
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.pyfunc.loaders.code_model",
                "model_code_path": code,
                "python_version": platform.python_version(),
                "config": dict(config),
                "env": {"virtualenv": "python_env.yaml"},
                # The weights are the folder itself, so nothing is stored twice.
                "artifacts": {"model": {"path": ".", "uri": "."}},
            }
        },
        "mlflow_version": version("mlflow-skinny"),
        "signature": {"inputs": _columns(inputs), "outputs": _columns(outputs), "params": None},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=True))


def _columns(columns: Mapping[str, tuple[str, bool]]) -> str:
    """Columns of a signature as MLflow writes them."""
    return json.dumps(
        [
            {"name": name, "type": kind, "required": required}
            for name, (kind, required) in columns.items()
        ]
    )
