"""Build every tiny model from nothing: one command, one seed, one folder with a manifest.

The order is fixed by what depends on what: scenes, CLIP, autoencoder, U-Net with CLIP's text half,
then the judge from scenes of its own. No stage of the product is used, so the models never see a
KPI.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from boig_core import vocabulary
from boig_core.adworld import drawing, scene
from boig_core.adworld.tiny_models import clip, data, diffusion, fidelity, tokenizer
from boig_core.errors import UserError

_SCENES, _HELD_OUT, _JUDGE_SCENES = 24_000, 2_000, 12_000
_CLIP_STEPS, _VAE_STEPS, _UNET_STEPS, _JUDGE_STEPS = 2_000, 2_400, 5_200, 1_200
_FIDELITY_IMAGES: Final = 256
_THREADS: Final = 2
"""Threads of every training run, whatever the machine has: another number changes the last bits."""


def build(out: Path, seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Train the tiny models and write ``tiny-sd``, ``clip``, ``clip-judge`` and ``manifest.json``
    into ``out``.

    The same seed, software and CPU type give the same bits. What stands in ``out`` under these
    names is replaced at the end, at once.

    Args:
        out: folder, made where missing.
        seed: at least 0.
        scale: in (0, 1], shrinks scenes and steps for a trial; below 1 the fidelity gate is
            measured but not enforced.

    Returns:
        The manifest.

    Raises:
        UserError: a seed or scale out of range.
        TrainingDivergedError: below the fidelity gate at scale 1; nothing is written.
    """
    if not 0 < scale <= 1:
        raise UserError(
            f"scale: {scale}",
            "must be above 0 and at most 1",
            "leave it at 1 for models that are worth shipping",
        )
    if seed < 0:
        raise UserError(f"seed: {seed}", "must be at least 0", "give another seed")
    out.mkdir(parents=True, exist_ok=True)
    with (
        # The caller's threads and random numbers are given back as they were: a test that builds
        # must not change those that follow.
        _steady_cpu(),
        torch.random.fork_rng(),
        _progress() as track,
        tempfile.TemporaryDirectory(dir=out, prefix=".building-") as scratch,
    ):
        folder = Path(scratch)
        measured = _train(folder, seed, scale, track)
        # Before anything is moved: a model below the gate replaces no good one.
        if scale == 1:
            fidelity.require_gate(measured["fidelity"])
        return publish(folder, out, seed, scale, measured)


def publish(
    folder: Path, out: Path, seed: int, scale: float, measured: dict[str, Any]
) -> dict[str, Any]:
    """Move the models in ``folder`` to ``out`` and write their manifest, last; returns the
    manifest."""
    manifest = {
        "schema": 1,
        "command": f"boig tiny-models --out DIR --seed {seed}"
        + (f" --scale {scale}" if scale != 1 else ""),
        "seed": seed,
        "scale": scale,
        "code_sha256": code_hash(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        "measured": measured,
        "files": {
            str(path.relative_to(folder)): describe(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    # Gone first, written last: a build that is cut in between leaves no manifest, never one that
    # lists other files.
    (out / "manifest.json").unlink(missing_ok=True)
    for file in sorted(folder.iterdir()):
        shutil.rmtree(out / file.name, ignore_errors=True)
        file.replace(out / file.name)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


Tracker = Callable[[str, int], Callable[[str], None]]
"""Opens a progress bar of a name and a number of steps; returns what advances it, with a note."""


def _train(folder: Path, seed: int, scale: float, track: Tracker) -> dict[str, Any]:
    def scaled(number: int, least: int = 16) -> int:
        return max(least, int(number * scale))

    # Ten apart, so that no stream of one seed is another's of the next.
    seeds = {
        name: seed * 10 + i
        for i, name in enumerate(
            ("scenes", "held_out", "judge_scenes", "clip", "vae", "unet", "judge")
        )
    }
    # Squares alone: naming is measured on crops as perception cuts them.
    held_out = _draw(scaled(_HELD_OUT), seeds["held_out"], track, squares=1.0)
    scenes = _draw(scaled(_SCENES), seeds["scenes"], track)
    words = tokenizer.build_tokenizer()
    measured: dict[str, Any] = {}

    # Each model starts from a seed of its own, whatever was drawn for the one before.
    torch.manual_seed(seeds["clip"])
    model, steps = clip.build_clip(words), scaled(_CLIP_STEPS, 2)
    clip.train_clip(model, words, scenes, steps, seeds["clip"], track("CLIP", steps))
    measured["clip"] = clip.measure_clip(model, words, held_out)
    clip.save_clip(model, words, folder / "clip")

    torch.manual_seed(seeds["vae"])
    vae, steps = diffusion.build_vae(), scaled(_VAE_STEPS, 2)
    diffusion.train_vae(vae, scenes, steps, seeds["vae"], track("autoencoder", steps))
    measured["autoencoder_psnr_db"] = diffusion.measure_vae(vae, held_out)
    latents_NCHW = diffusion.encode(vae, scenes) * vae.config.scaling_factor

    torch.manual_seed(seeds["unet"])
    unet, text_encoder = diffusion.build_unet(), clip.text_half(model)
    steps = scaled(_UNET_STEPS, 2)
    advance = track("diffusion", steps)
    diffusion.train_unet(
        unet, text_encoder, latents_NCHW, words, scenes, steps, seeds["unet"], advance
    )
    pipe = diffusion.assemble(vae, unet, text_encoder, words)
    # Measured after the rounding to half precision, for that is what ships.
    pipe.to(torch.float16).save_pretrained(folder / "tiny-sd")
    measured["fidelity"] = fidelity.fidelity(pipe.to(torch.float32), scaled(_FIDELITY_IMAGES))

    # A judge that shares scenes or seed with what it judges would share its mistakes.
    judge_scenes = _draw(scaled(_JUDGE_SCENES), seeds["judge_scenes"], track)
    torch.manual_seed(seeds["judge"])
    judge, steps = clip.build_clip(words), scaled(_JUDGE_STEPS, 2)
    advance = track("judge CLIP", steps)
    clip.train_clip(judge, words, judge_scenes, steps, seeds["judge"], advance)
    measured["clip-judge"] = clip.measure_clip(judge, words, held_out)
    clip.save_clip(judge, words, folder / "clip-judge")
    return measured


def _draw(count: int, seed: int, track: Tracker, squares: float = 0.75) -> data.TrainingSet:
    advance = track(f"{count} scenes", count)
    return data.draw(count, seed, lambda: advance(""), squares)


def code_hash() -> str:
    """SHA-256 over the source files that decide what the models learn."""
    sources = [
        Path(scene.__file__),
        Path(drawing.__file__),
        Path(vocabulary.__file__),
        *sorted(Path(__file__).parent.glob("*.py")),
    ]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as the manifest lists them."""
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@contextmanager
def _steady_cpu() -> Iterator[None]:
    """Fixed thread count, and memory that stays with the process.

    By default glibc hands every large tensor back to the kernel and fetches zeroed pages anew: on
    virtual machines that made these small models two to five times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress() -> Iterator[Tracker]:
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable="PYTEST_CURRENT_TEST" in os.environ,
    ) as progress:

        def track(name: str, total: int) -> Callable[[str], None]:
            task = progress.add_task(name, total=total, note="")
            return lambda note: progress.update(task, advance=1, note=note)

        yield track
