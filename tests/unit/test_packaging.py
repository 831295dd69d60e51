"""What installs boig: the locks, the extras, the images and the software bill of materials agree
with each other."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.tools import sbom

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [
    ROOT / "requirements.lock",
    ROOT / "infra" / "docs" / "requirements.lock",
    ROOT / "infra" / "tools" / "sbom.lock",
    ROOT / "infra" / "tools" / "uv.lock",
]
PIN = re.compile(r"([a-z0-9.-]+)==([^\s@;]+)( \\)?")
HASH = re.compile(r"    --hash=sha256:([0-9a-f]{64})( \\)?")


def parse(text: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package. A lock holds a line ``NAME==VERSION \\`` for each, then
    its hashes, of which all but the last go on; nothing else, so that none belongs to another."""
    packages: dict[str, tuple[str, list[str]]] = {}
    name, goes_on = "", False
    for line in text.splitlines():
        if goes_on:
            match = HASH.fullmatch(line)
            assert match, f"{line!r} is no hash of {name}"
            packages[name][1].append(match[1])
        else:
            match = PIN.fullmatch(line)
            assert match, f"{line!r} belongs to no package"
            name = match[1]
            assert name == canonicalize_name(name)
            assert name not in packages, f"{name} is there twice"
            packages[name] = (match[2], [])
        goes_on = bool(match.groups()[-1])
    assert not goes_on, f"the hashes of {name} break off"
    assert all(hashes for _, hashes in packages.values()), "a package without a hash"
    return packages


LOCK = {name: version for name, (version, _) in parse(LOCKS[0].read_text()).items()}


def extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        extra: [Requirement(text) for text in texts]
        for extra, texts in {
            "": project["dependencies"],
            **project["optional-dependencies"],
        }.items()
    }


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_hash_belongs_to_its_package(path: Path) -> None:
    packages = parse(path.read_text())
    hashes = Counter(digest for _, digests in packages.values() for digest in digests)
    assert max(hashes.values()) == 1, "two packages share no file"
    # A release has a wheel and mostly its source; compiled ones a wheel per platform and Python.
    assert len(hashes) >= 1.5 * len(packages)


def test_all_platforms_of_a_compiled_package_are_in_the_lock() -> None:
    packages = parse(LOCKS[0].read_text())
    assert all(len(packages[name][1]) > 20 for name in ("numpy", "aiohttp", "pyyaml"))


LINES = LOCKS[3].read_text().splitlines() + LOCKS[2].read_text().splitlines()


@given(st.integers(0, len(LINES) - 1))
def test_a_lock_that_lost_a_line_is_refused_or_lost_that_line_alone(place: int) -> None:
    """What a filter of lines does to a lock: the hashes of what it drops fall to a neighbor."""
    whole, left = "\n".join(LINES), "\n".join([*LINES[:place], *LINES[place + 1 :]])
    try:
        packages = parse(left)
    except AssertionError:
        return
    dropped = HASH.fullmatch(LINES[place])
    assert dropped, "without its package's line no hash has an owner"
    assert packages == {
        name: (version, [digest for digest in digests if digest != dropped[1]])
        for name, (version, digests) in parse(whole).items()
    }


def test_locks_name_no_index() -> None:
    for path in LOCKS:
        assert not re.search(r"://|index|find-links", path.read_text()), path


def test_lock_pins_everything_but_torch() -> None:
    assert "torch" not in LOCK
    assert not [name for name in LOCK if name.startswith(("nvidia", "triton", "cuda"))]
    wanted = [
        result
        for texts in extras().values()
        for result in texts
        if result.name not in {"boig", "torch"}
    ]
    assert len(wanted) > 30
    for requirement in wanted:
        assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_images_take_one_side_only() -> None:
    sides = {
        extra: {canonicalize_name(requirement.name) for requirement in result}
        for extra, result in extras().items()
    }
    assert not {"torch", "ray", "transformers", "deepspeed"} & (
        sides[""] | sides["airflow"] | sides["postgres"]
    )
    assert not [name for name in sides[""] | sides["ray"] if "airflow" in name]
    asked = {"airflow": {"airflow", "postgres"}, "ray": {"ray"}, "mlflow": set()}
    for image, expected in asked.items():
        text = (ROOT / "infra" / "docker" / f"{image}.Dockerfile").read_text()
        assert set(re.findall(r"--extra (\w+)", text)) == expected


INSTALLERS = [ROOT / "Makefile", *sorted((ROOT / "infra").rglob("*.Dockerfile"))]


@pytest.mark.parametrize("path", INSTALLERS, ids=lambda path: path.name)
def test_nothing_is_installed_beside_the_locks(path: Path) -> None:
    """Each installation reads a lock, whose hashes hold; boig itself is built by what they pin."""
    text = path.read_text().replace("\\\n", " ")
    locked = next(re.finditer(r"^LOCKED = (.*)$", text, re.MULTILINE), None)
    text = text.replace("$(LOCKED)", locked[1] if locked else "")
    installs = [
        line for line in text.splitlines() if "pip install" in line and "LOCKED" not in line
    ]
    assert len(installs) >= 2
    for line in installs:
        line = line.split("pip install", 1)[1]
        if "--require-hashes" in line:
            assert re.search(r"-r (\S+\.lock|\$\(2\))", line), line
        elif "-e ." in line:
            assert re.search(r"--no-deps.*(-b|--build-constraints) requirements\.lock", line) or (
                re.search(r"(-b|--build-constraints) requirements\.lock.*--no-deps", line)
            ), line
        else:
            assert re.search(r"(-c|--constraints) requirements\.lock", line), line
            assert re.search(r"(-b|--build-constraints) requirements\.lock", line), line


def test_the_bill_of_materials_asks_for_torch_and_the_whole_lock() -> None:
    pins = sbom.pins(sbom.requirements())
    assert pins == {*LOCK.items(), ("torch", dict(pins)["torch"])}


@pytest.mark.parametrize("left_out", [None, "torch", "zipp"])
def test_a_bill_that_leaves_a_package_out_is_not_written(
    tmp_path: Path, left_out: str | None
) -> None:
    tool, out = tmp_path / "cyclonedx", tmp_path / "dist" / "boig.cdx.json"
    tool.write_text(
        f"""#!{sys.executable}
import json, re, sys
pins = re.findall(r"^([a-z0-9.-]+)==([^ \\n]+)", sys.stdin.read(), re.MULTILINE)
listed = [{{"name": n, "version": v}} for n, v in pins if n != {left_out!r}]
print(json.dumps({{"components": listed}}))
"""
    )
    tool.chmod(0o755)
    if left_out:
        with pytest.raises(SystemExit, match=f"leaves out .*{left_out}"):
            sbom.main(str(tool), str(out))
        assert not out.exists()
    else:
        sbom.main(str(tool), str(out))
        assert sbom.listed(json.loads(out.read_text())) == sbom.pins(sbom.requirements())


def test_env_is_never_committed() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
