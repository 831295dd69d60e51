"""How fast are images scored, and how much of what sharing a prompt can save is saved? A Llama with
random weights, one thread a process.

Floor: of 16 images per prompt, P tokens of prompt and A of answer, reading each prompt anew takes
16 (P + A) tokens, reading it once P + 16 A; the ratio of both is what sharing can gain at most,
when a token costs the same everywhere. With HIGH and LOW, which differ in the last R tokens of the
prompt, it is 32 (P + A) against P + R + 32 A. Seconds are CPU time, the best of alternating rounds.

Rate: images per second through the pool of actors that stages use, by the contrast (HIGH and LOW),
actors started beforehand; with and without a shared prompt, and out of the store's cache, for 1 and
2 actors.

    OMP_NUM_THREADS=1 python -m infra.evidence.rewards.reward_scoring [--rounds 5] [--json
        reward_scoring.json] [--smoke]
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from boig_core.cluster.scoring import Score, Values, score_chunks
from boig_core.cluster.session import connect
from boig_core.config import Recipe, load_recipe
from boig_core.llm.generate import load_llm
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import build_tokenizer
from boig_core.rewards.cache import cache_folder, in_parts, questions, through_cache
from boig_core.rewards.calibration import Conditions, KpiPair
from boig_core.rewards.loading import Models
from boig_core.rewards.scorer import score_formulations
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import COMPACT, build_prompt
from boig_core.vocabulary import PALETTE, Description, Sample
from infra.evidence import published

IMAGES: Final = 16
"""Images per prompt."""
CONDITIONS: Final = Conditions(accounts={}, fallback=KpiPair(high=90, low=5))
KINDS: Final = ("ball", "box", "tent", "star")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--posts",
        type=int,
        default=8,
        help=f"posts that are scored by actors, {IMAGES} images each",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny model, one round: does the script work?"
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    args = parser.parse_args()
    args.hidden, args.layers, args.words = (32, 2, 60) if args.smoke else (512, 8, 190)
    if args.smoke:
        args.rounds, args.posts = 1, 2
    torch.set_num_threads(1)
    samples, descriptions = make_posts(args.posts, args.words)
    with tempfile.TemporaryDirectory(prefix="boig-evidence-") as home:
        folder = Path(home) / "llm"
        make_llm(folder, samples, args.hidden, args.layers)
        model, tokenizer = load_llm(folder)
        result = {
            "model": {
                "hidden": args.hidden,
                "layers": args.layers,
                "parameters": model.num_parameters(),
            }
        }
        for name, labels in (("one condition", ("high",)), ("HIGH and LOW", ("high", "low"))):
            result[name] = floor(
                model, tokenizer, samples[0], descriptions[:IMAGES], labels, args.rounds
            )
            print(name, json.dumps(result[name]), flush=True)
        connect(cpus=4)
        for actors in (1, 2):
            result[f"{actors} actors"] = rates(actors, folder, samples, descriptions, home)
            print(actors, "actors, images/s:", json.dumps(result[f"{actors} actors"]), flush=True)
        ray.shutdown()
    if args.json:
        published.save(args.json, result)


def make_posts(count: int, words: int) -> tuple[list[Sample], list[Description]]:
    """Posts of so many words, and descriptions of the images that were made for each: 4 colors and
    2 objects."""
    rng = np.random.default_rng(0)
    lexicon = ["".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(400)]
    texts = [" ".join(rng.choice(lexicon, words)) for _ in range(count)]
    samples = [
        Sample(
            str(i),
            str(i),
            "acme",
            "Acme",
            "2021-07-01T10:00:00Z",
            text,
            KINDS,
            9,
            50,
            "high",
            "test",
            "0",
            640,
            640,
        )
        for i, text in enumerate(texts)
    ]
    return samples, [describe(rng) for _ in range(count * IMAGES)]


def describe(rng: np.random.Generator) -> Description:
    """A made-up description."""
    colors = rng.choice(list(PALETTE), 4, replace=False)
    boxes = rng.integers(0, 320, (2, 2))
    objects = {
        str(kind): (float(x), float(y), float(x + 200), float(y + 200))
        for kind, (x, y) in zip(rng.permutation(KINDS), boxes, strict=False)
    }
    return Description(
        dict(zip(map(str, colors), (0.4, 0.3, 0.2, 0.1), strict=True)),
        {"warm": 0.5, "neutral": 0.3, "cool": 0.2},
        objects,
    )


def make_llm(folder: Path, samples: Sequence[Sample], hidden: int, layers: int) -> None:
    """Save a Llama of this size, with a tokenizer that knows the posts' words."""
    tokenizer = build_tokenizer([prompts(sample)["high"] for sample in samples], 1024)
    torch.manual_seed(0)
    heads, inner = max(2, hidden // 64), hidden * 8 // 3
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=1024,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts(sample: Sample) -> dict[str, str]:
    """The prompts of a post."""
    pair = CONDITIONS.of(sample.account)
    return {
        "high": build_prompt(sample, pair.high_condition),
        "low": build_prompt(sample, pair.low_condition),
    }


def floor(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    descriptions: Sequence[Description],
    labels: Sequence[str],
    rounds: int,
) -> dict[str, float]:
    """CPU seconds of both ways for the images of one post, their ratio, its floor, and the share of
    it that is reached."""
    asked = [prompts(sample)[label] for label in labels for _ in descriptions]
    answers = [print_answer(description) for description in descriptions] * len(labels)
    ids = [
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        for text in map(prompts(sample).get, labels)
    ]
    prompt = float(np.mean([len(item) for item in ids]))
    # With one condition both are the same prompt, and all of it is common.
    common = next(
        (i for i, (a, b) in enumerate(zip(ids[0], ids[-1], strict=False)) if a != b), int(prompt)
    )
    answer = float(
        np.mean(
            [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in answers]
        )
    )
    best, differ = {True: np.inf, False: np.inf}, 0.0
    for _ in range(rounds + 1):  # the first one warms up
        values = {}
        # In turn, so that a slow spell of the machine falls on both.
        for share in (False, True):
            started = time.process_time()
            values[share] = np.concatenate(
                answer_logprobs(model, tokenizer, asked, answers, share=share)
            )
            best[share] = min(best[share], time.process_time() - started)
        differ = max(differ, float(np.abs(values[True] - values[False]).max()))
    rows = len(asked)
    gain = (
        rows * (prompt + answer) / (prompt + (len(labels) - 1) * (prompt - common) + rows * answer)
    )
    ratio = best[False] / best[True]
    return {
        "rows": rows, "prompt_tokens": prompt, "answer_tokens": answer, "largest_difference_nats": differ, "plain_s": best[False],
        "shared_s": best[True], "ratio": ratio, "floor": gain, "share_of_floor": ratio / gain,
    }  # fmt: skip


def rates(
    actors: int,
    folder: Path,
    samples: Sequence[Sample],
    descriptions: Sequence[Description],
    home: str,
) -> dict[str, float]:
    """Images per second, from the first chunk to the last."""
    resources = "reward.resources={cpus: 1}"
    recipe = load_recipe("tiny", [f"reward.actors={actors}", f"reward.chunk={IMAGES}", resources])
    items = [(samples[i // IMAGES], description) for i, description in enumerate(descriptions)]
    result = {}
    for name, share in (("shared prompt", True), ("each prompt anew", False)):
        result[name] = len(items) / seconds(recipe, folder, items, share)
    asked = questions(
        [str(i) for i in range(len(items))], [sample for sample, _ in items], CONDITIONS, COMPACT
    )
    # A cache for each number of actors, or the second would find the scores of the first.
    kept = cache_folder(home, names=["contrast"], perception="", model=str(actors), llm=recipe.llm)

    def scored(missing: Sequence[int]) -> Iterator[tuple[Sequence[int], Values]]:
        parts = list(in_parts(missing, IMAGES))
        opener = functools.partial(open_score, folder, recipe, True)
        for number, values in score_chunks(
            recipe, opener, [[items[i] for i in part] for part in parts]
        ):
            yield parts[number], values

    # Fills the cache; the second call finds all of it, and is the one that is timed.
    through_cache(kept, asked, scored)
    started = time.perf_counter()
    _, known = through_cache(kept, asked, scored)
    result["cache"] = known / (time.perf_counter() - started)
    return result


def seconds(
    recipe: Recipe, folder: Path, items: Sequence[tuple[Sample, Description]], share: bool
) -> float:
    """Seconds of scoring by a pool; the first chunk of each actor, before which models are opened,
    is not counted."""
    chunks = [items[start : start + IMAGES] for start in range(0, len(items), IMAGES)]
    warm = [items[:1]] * recipe.reward.actors
    results = score_chunks(
        recipe, functools.partial(open_score, folder, recipe, share), [*warm, *chunks]
    )
    started = 0.0
    for place, _ in enumerate(results):
        started = time.perf_counter() if place == len(warm) - 1 else started
    return time.perf_counter() - started


def open_score(folder: Path, recipe: Recipe, share: bool, device: str) -> Score:
    """The contrast of descriptions, in an actor."""
    model, tokenizer = load_llm(folder)
    models = Models(
        lambda asked, answers: answer_logprobs(
            model.to(device), tokenizer, asked, answers, share=share
        ),
        # The contrast asks for no prediction.
        lambda asked: [],
    )

    def score(items: Sequence[tuple[Sample, Description]]) -> Values:
        known, seen = [sample for sample, _ in items], [description for _, description in items]
        return score_formulations(models, seen, known, CONDITIONS, len(items), ["contrast"])

    return score


if __name__ == "__main__":
    main()
