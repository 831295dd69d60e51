"""Nothing in the code opens a file in a way that lets the file run code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}  # fmt: skip
READERS = {"load", "loads", "Unpickler", "open"}
# Calls that are safe with one value of one argument alone.
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
FORBIDDEN = {
    "eval", "exec", "compile", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all",
    "torch.hub.load", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
# What a hub or a folder may bring code of its own for.
AUTO = "Auto"


def unsafe_loads(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each load that may run what it reads."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in UNSAFE_MODULES:
            for alias in node.names:
                if alias.name in READERS:
                    yield node.lineno, f"from {node.module} import {alias.name}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {
            word.arg: word.value.value
            for word in node.keywords
            if word.arg is not None and isinstance(word.value, ast.Constant)
        }
        module, _, attribute = name.rpartition(".")
        if name in FORBIDDEN or (module in UNSAFE_MODULES and attribute in READERS):
            yield node.lineno, name
        if name in NEEDED:
            argument, value = NEEDED[name]
            if given.get(argument) is not value:
                yield node.lineno, f"{name} without {argument}={value}"
        if given.get("trust_remote_code") or given.get("allow_pickle") is True:
            yield node.lineno, f"{name} that trusts what it opens"
        if given.get("use_safetensors") is False or given.get("weights_only") is False:
            yield node.lineno, f"{name} that reads pickles"
        if (
            attribute == "from_pretrained"
            and module.startswith(AUTO)
            and given.get("trust_remote_code") is not False
        ):
            yield node.lineno, f"{name} without trust_remote_code=False"


def test_no_file_that_is_opened_may_run_code() -> None:
    files = [
        path for room in ("boig_core", "ray_jobs", "dags", "infra") for path in (ROOT / room).rglob("*.py")
    ]  # fmt: skip
    assert len(files) > 200
    unsafe = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in files
        for line, what in unsafe_loads(path.read_text())
    ]
    assert unsafe == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "pickle.loads(data)",
        "pickle.Unpickler(file)",
        "from pickle import loads",
        "cloudpickle.load(file)",
        "joblib.load(path)",
        "shelve.open(path)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "torch.hub.load('a/b', 'c')",
        "AutoModel.from_pretrained(folder)",
        "CLIPModel.from_pretrained(folder, trust_remote_code=True)",
        "CLIPModel.from_pretrained(folder, use_safetensors=False)",
    ],
)
def test_an_unsafe_load_would_be_seen(source: str) -> None:
    assert list(unsafe_loads(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "model.eval()",
        "pickle.dumps(value)",
        "from pickle import UnpicklingError",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "re.compile(pattern)",
    ],
)
def test_a_safe_one_is_none(source: str) -> None:
    assert not list(unsafe_loads(source))
