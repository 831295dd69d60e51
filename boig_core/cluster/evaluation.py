"""Evaluation on Ray: images sampled by a pool of actors that pull whole chunks, prompts answered by
tasks, a chunk each.

A chunk is a pure function of its model and inputs, so a worker that dies is replaced and the chunk
redone. Models travel as locations in the store, and each worker fetches and verifies what it uses.
Leaves out: what is asked and measured (`boig_core.evaluation`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util import ActorPool

from boig_core.cluster.actors import RESTARTS
from boig_core.cluster.placement import actor_options
from boig_core.config import LLM, Recipe
from boig_core.errors import ClusterError
from boig_core.observability.progress import Progress, progress_log
from boig_core.vocabulary import Description

STALL_S: Final = 1800.0
"""Longest wait for the next chunk."""
_PROMPTS: Final = 384
"""Prompts of one task: enough to be worth opening the model."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        location: URI of a committed ``sd`` output, or a model reference (hub id, folder,
            ``package:NAME``).
        committed: whether it is an output in the store.
    """

    location: str
    committed: bool


@dataclass(frozen=True)
class SampleRequest:
    """What is sampled: one image for each of the prompts.

    Attributes:
        source: the model.
        prompts: of the images.
        guidance: classifier-free guidance.
    """

    source: Source
    prompts: Sequence[str]
    guidance: float


class SampleActor:
    """One sampler in a process of its own; keeps the model of its last chunk open."""

    def __init__(self, recipe: Recipe) -> None:
        import torch

        # The last bits of an image depend on the number of threads.
        torch.set_num_threads(max(1, int(recipe.resources.cpus)))
        self._recipe = recipe
        self._opened: tuple[Source, Any] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="boig-sample-")

    def warm_up(self) -> None:
        """Import what sampling takes: seconds, in which the stage's process does the same with what
        measures."""
        import boig_core.diffusion.sample  # noqa: F401

    def sample(self, draw: SampleRequest, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Images (B, H, W, 3) of one chunk."""
        from boig_core.diffusion.sample import sample_images

        steps, chunk = self._recipe.evaluation.sampling_steps, self._recipe.ddpo.chunk
        return sample_images(
            self._pipe(draw.source), draw.prompts, seeds, steps, draw.guidance, chunk
        )

    def _pipe(self, source: Source) -> Any:
        from boig_core.diffusion.pipeline import load_pipeline
        from boig_core.storage.manifest import fetch_folder

        if self._opened is None or self._opened[0] != source:
            location = source.location
            if source.committed:
                local = Path(tempfile.mkdtemp(dir=self._folder.name))
                fetch_folder(location, local, kind="sd")
                location = str(local)
            pipe = load_pipeline(location, self._recipe.sd.dtype)
            self._opened = source, pipe.to("cuda") if self._recipe.resources.gpus else pipe
        return self._opened[1]


@contextmanager
def started_samplers(recipe: Recipe) -> Iterator[list[Any]]:
    """The recipe's sampling actors, which get ready by themselves and end with the context. Ray
    must be connected."""
    options = {
        **actor_options(recipe.resources),
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
    }
    actors = [
        ray.remote(SampleActor).options(**options).remote(recipe)
        for _ in range(recipe.ddpo.rollout_actors)
    ]
    try:
        for actor in actors:
            actor.warm_up.remote()
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def sample_draws(
    actors: Sequence[Any],
    draws: Mapping[str, SampleRequest],
    seeds: Sequence[int],
    chunk: int,
    drawn: Callable[[str, NDArray[np.uint8]], object] = lambda name, images: None,
) -> dict[str, NDArray[np.uint8]]:
    """Images (N, H, W, 3) of each draw, all from the same noise.

    Args:
        actors: from `started_samplers`.
        draws: of N prompts each; those of one model follow each other in the work, so that it is
            opened once.
        seeds: of the N starting noises.
        chunk: images that an actor samples at a time.
        drawn: is called with each draw's name and images as soon as they are there, while the next
            are sampled.

    Raises:
        ClusterError: no chunk finished for `STALL_S`, or an actor died more often than its budget
            allows.
        BoigError: whatever opening a model raised.
    """
    order = sorted(draws, key=lambda name: draws[name].source.location)
    slices = [slice(start, start + chunk) for start in range(0, len(seeds), chunk)]
    chunks = [
        (replace(draws[name], prompts=draws[name].prompts[part]), seeds[part])
        for name in order
        for part in slices
    ]
    pool = ActorPool(actors)
    progress = Progress("images", len(draws) * len(seeds), progress_log("sampling"))
    # The pool hands out what waits inside `get_next` alone, so nothing that takes long may stand
    # between two calls: `drawn` only passes images on.
    for part in chunks:
        pool.submit(lambda actor, c: actor.sample.remote(*c), part)
    images_of_draw: dict[str, NDArray[np.uint8]] = {}
    try:
        for name in order:
            parts: list[NDArray[np.uint8]] = []
            for _ in slices:
                parts.append(pool.get_next(timeout=STALL_S))
                progress.add([None] * len(parts[-1]))
            images_of_draw[name] = np.concatenate(parts)
            drawn(name, images_of_draw[name])
        progress.close()
    except TimeoutError as exc:
        raise ClusterError(
            f"a chunk after {len(images_of_draw)} of {len(draws)} rows",
            f"took longer than {STALL_S:.0f} s",
            "see the Ray dashboard",
        ) from exc
    except ray.exceptions.RayActorError as exc:
        raise ClusterError(
            "a sampling actor",
            f"died more than {RESTARTS} times",
            "see its log on the Ray dashboard",
        ) from exc
    # In the caller's order, not in that of the work.
    return {name: images_of_draw[name] for name in draws}


@dataclass(frozen=True)
class Answered:
    """What a model said to prompts.

    Attributes:
        said: one description per prompt, in order; None where nothing could be parsed.
        texts: answers that were written, one or several a prompt.
        parsed: how many of them could be parsed.
    """

    said: list[Description | None]
    texts: int
    parsed: int

    @property
    def parse_rate(self) -> float:
        """Share of the texts that could be parsed."""
        return self.parsed / self.texts if self.texts else 0.0


def answer_prompts(
    model_uri: str, prompts: Sequence[str], recipe: Recipe, label: str = "answering"
) -> Callable[[], Answered]:
    """Start answering prompts with a committed ``boigllm``; Ray must be connected.

    Args:
        model_uri: of the model.
        prompts: to answer.
        recipe: how answers are written, and what a task asks for.
        label: what the lines of progress begin with.

    Returns:
        What waits for the answers. So several models answer at a time.
    """
    wants, llm = recipe.resources, recipe.llm
    environment = {} if wants.gpus else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    task = ray.remote(**actor_options(wants), runtime_env={"env_vars": environment})(_answer_chunk)
    chunks = [prompts[start : start + _PROMPTS] for start in range(0, len(prompts), _PROMPTS)]
    # All tasks are under way when this returns: whoever asks several models starts all of them
    # before it waits for one.
    pending = {task.remote(model_uri, chunk, llm, recipe.seed): len(chunk) for chunk in chunks}
    say = progress_log(label)
    progress = Progress("prompts", len(prompts), say)

    def wait() -> Answered:
        say(progress.line())
        waiting = list(pending)
        while waiting:
            [answered], waiting = ray.wait(waiting, num_returns=1)
            ray.get(answered)  # an error ends it at once
            progress.add([None] * pending[answered])
        progress.close()
        # In the order of the prompts, which `ray.wait` does not keep.
        parts: list[Answered] = ray.get(list(pending))
        descriptions = [description for part in parts for description in part.said]
        return Answered(
            descriptions, sum(part.texts for part in parts), sum(part.parsed for part in parts)
        )

    return wait


def _answer_chunk(model_uri: str, prompts: Sequence[str], llm: LLM, seed: int) -> Answered:
    """One chunk on one worker: fetch the model, answer, parse."""
    from boig_core.llm.consensus import consensus
    from boig_core.llm.constraint import AnswerConstraint
    from boig_core.llm.generate import generate_answers, load_llm, parse_or_none
    from boig_core.llm.sampling import sample_answers
    from boig_core.storage.manifest import fetch_folder

    with tempfile.TemporaryDirectory(prefix="boig-llm-") as folder:
        fetch_folder(model_uri, Path(folder), kind="boigllm")
        model, tokenizer = load_llm(folder)
    constraint = AnswerConstraint(tokenizer) if llm.constrained else None
    limits = {"max_new_tokens": llm.max_new_tokens, "batch": llm.generate_batch}
    if llm.samples == 1:
        drawn = [
            [text]
            for text in generate_answers(model, tokenizer, prompts, constraint=constraint, **limits)
        ]
    else:
        drawn = sample_answers(
            model,
            tokenizer,
            prompts,
            samples=llm.samples,
            seed=seed,
            constraint=constraint,
            **limits,
        )
    read = [[parse_or_none(text) for text in texts] for texts in drawn]
    descriptions = [consensus(parsed) if llm.samples > 1 else parsed[0] for parsed in read]
    flat = [description for parsed in read for description in parsed]
    return Answered(descriptions, len(flat), sum(description is not None for description in flat))
