"""A model that a recipe names is weights and settings: no pickle and no code of its folder runs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from boig_core.config import parse_recipe
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.errors import BoigError, InputError, UserError
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.llm.base import make_model
from boig_core.llm.generate import load_llm
from boig_core.llm.tokens import build_tokenizer
from boig_core.llm.vectors import SentenceEmbeddings
from boig_core.models import MODELS_FOLDER
from boig_core.perception.naming import ClipNamer


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.target,)


def saved(harmful: Harmful, path: Path) -> None:
    torch.save({"weight": harmful}, path)


def pickled(harmful: Harmful, path: Path) -> None:
    path.write_bytes(pickle.dumps(harmful))


def clip(folder: Path) -> None:
    shutil.copytree(MODELS_FOLDER / "clip", folder)


def pipeline(folder: Path) -> None:
    shutil.copytree(MODELS_FOLDER / "tiny-sd", folder)


@pytest.fixture
def llama(save_llama: Callable[..., None]) -> Callable[[Path], None]:
    return lambda folder: save_llama(folder, build_tokenizer(["a post"], 500))


def base(folder: str) -> Any:
    return make_model(parse_recipe({"llm": {"base": folder, "context": 64}}).llm, ["a post"], 0)


CASES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "the base of the language model": ("llama", base, "."),
    "a published language model": ("llama", load_llm, "."),
    "sentence embeddings": ("llama", SentenceEmbeddings, "."),
    "the CLIP that judges": ("clip", ClipJudge, "."),
    "the CLIP that names": ("clip", lambda folder: ClipNamer(folder, ("a", "b"), 0.5), "."),
    "a UNet": ("pipeline", load_pipeline, "unet"),
    "a text encoder": ("pipeline", load_pipeline, "text_encoder"),
    "an autoencoder": ("pipeline", load_pipeline, "vae"),
}


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, llama: Callable[[Path], None], tmp_path: Path
) -> tuple[Path, Callable[[str], Any], Path]:
    """A model's folder, what opens it, and the part to spoil."""
    kind, load, part = CASES[request.param]
    write = {"llama": llama, "clip": clip, "pipeline": pipeline}[kind]
    write(tmp_path / "model")
    return tmp_path / "model", load, tmp_path / "model" / part


@pytest.mark.parametrize("spoil", [saved, pickled])
def test_no_pickle_of_weights_runs(
    case: tuple[Path, Callable[[str], Any], Path],
    spoil: Callable[[Harmful, Path], None],
    tmp_path: Path,
) -> None:
    folder, load, part = case
    [weights] = part.glob("*.safetensors")
    name = "diffusion_pytorch_model.bin" if "diffusion" in weights.name else "pytorch_model.bin"
    weights.unlink()
    spoil(Harmful(tmp_path / "ran"), part / name)
    with pytest.raises(BoigError) as caught:
        load(str(folder))
    assert not (tmp_path / "ran").exists(), "it ran"
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n"
HARM: dict[str, Callable[[bytes], bytes]] = {
    "a pointer": lambda content: POINTER,
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("how", HARM)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("door", [door for door, case in CASES.items() if case[0] != "pipeline"])
def test_a_file_that_is_not_there_whole_is_one_line(
    door: str, name: str, how: str, llama: Callable[[Path], None], tmp_path: Path
) -> None:
    kind, load, _ = CASES[door]
    folder = tmp_path / "model"
    {"llama": llama, "clip": clip}[kind](folder)
    path = folder / name
    path.write_bytes(HARM[how](path.read_bytes()))
    with pytest.raises(InputError, match=name) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


CODE = """
from pathlib import Path
Path({target!r}).mkdir()
from transformers import LlamaConfig as Own, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Words
"""


def test_no_code_of_a_folder_runs(
    case: tuple[Path, Callable[[str], Any], Path], tmp_path: Path
) -> None:
    folder, load, part = case
    (part / "own.py").write_text(CODE.format(target=str(tmp_path / "ran")))
    config = json.loads((part / "config.json").read_text())
    names = {"AutoConfig": "own.Own", "AutoModel": "own.Model", "AutoModelForCausalLM": "own.Model"}
    config |= {"auto_map": names, "model_type": "of_its_own"}
    (part / "config.json").write_text(json.dumps(config))
    for index in folder.glob("model_index.json"):
        kinds = json.loads(index.read_text())
        index.write_text(json.dumps({**kinds, part.name: ["own", "Model"]}))
    tokens = part / "tokenizer_config.json"
    if tokens.exists():
        settings = json.loads(tokens.read_text())
        settings |= {
            "tokenizer_class": "Words",
            "auto_map": {"AutoTokenizer": ["own.Words", "own.Words"]},
        }
        tokens.write_text(json.dumps(settings))
    # Concrete classes ignore what a folder says of its classes, others refuse it.
    with suppress(UserError):
        load(str(folder))
    assert not (tmp_path / "ran").exists(), "it ran"
