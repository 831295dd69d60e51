"""What the grammar of answers costs and what it gains: tokens per second and parse rate of one
BoigLLM, with and without it.

Prompts are those of test posts with their own KPI, as `evaluate_llm` asks them. Each way is timed
in turn, several rounds on the same prompts, after a warm one; the median counts, in CPU seconds of
the process, which other work on the machine disturbs least. A token is one that was written, the
end of an answer included.

    OMP_NUM_THREADS=1 python -m infra.evidence.llm.constrained --dataset URI --model URI [--posts
        128] [--samples 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boig_core.data.dataset import read_samples
from boig_core.errors import InputError
from boig_core.llm.constraint import AnswerConstraint
from boig_core.llm.generate import generate_answers, load_llm, parse_or_none
from boig_core.llm.sampling import sample_answers
from boig_core.storage.manifest import fetch_folder
from boig_core.verbalization.answer import parse_answer
from boig_core.verbalization.templates import build_prompt, condition_of


def main() -> None:
    """Print one line per way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--posts", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()
    asked = [s for s in read_samples(args.dataset) if s.split == "test" and s.bucket][: args.posts]
    prompts = [build_prompt(s, condition_of(s)) for s in asked]
    with tempfile.TemporaryDirectory() as folder:
        fetch_folder(args.model, Path(folder), kind="boigllm")
        model, tokenizer = load_llm(folder)
    started = time.process_time()
    constraint = AnswerConstraint(tokenizer)
    print(
        f"grammar and tokenizer made ready in {1000 * (time.process_time() - started):.0f} ms; vocabulary {len(tokenizer)}"
    )
    ways = ways_to_answer(model, tokenizer, prompts, constraint, args)
    # This is the warm round; the timed ones write the same texts.
    texts = {name: write() for name, write in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        # In turn within each round, so that a slow spell of the machine falls on all ways.
        for name, write in ways.items():
            started = time.process_time()
            write()
            seconds[name].append(time.process_time() - started)
    for name, result in texts.items():
        tokens = sum(
            len(ids) + 1 for ids in tokenizer(result, add_special_tokens=False)["input_ids"]
        )
        parsed = sum(parse_or_none(text) is not None for text in result) / len(result)
        spent = statistics.median(seconds[name])
        size = tokens / len(result)
        print(
            f"{name:22} {tokens / spent:8.0f} tokens/CPU s  {len(result)} answers of {size:.1f} tokens  parse rate {parsed:.4f}"
        )
    pairs = list(zip(texts["greedy"], texts["greedy, constrained"], strict=True))
    # The grammar lets no color come twice, so only answers that are strict already can stay as they
    # are.
    strict = [(free, held) for free, held in pairs if is_strict(free)]
    same = sum(free == held for free, held in strict)
    print(
        f"greedy answers that name nothing twice and parse: {len(strict)} of {len(pairs)}; the grammar leaves {same} of them as they are"
    )


def ways_to_answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    constraint: AnswerConstraint,
    args: argparse.Namespace,
) -> dict[str, Callable[[], list[str]]]:
    """Functions that answer all prompts, by the name of the way."""

    def greedy(held: AnswerConstraint | None) -> list[str]:
        return generate_answers(
            model, tokenizer, prompts, constraint=held, max_new_tokens=args.max_new_tokens
        )

    def sampled(held: AnswerConstraint | None) -> list[str]:
        limits = {
            "samples": args.samples,
            "seed": 0,
            "max_new_tokens": args.max_new_tokens,
            "batch": 256,
        }
        return [
            text
            for texts in sample_answers(model, tokenizer, prompts, constraint=held, **limits)
            for text in texts
        ]

    return {
        "greedy": lambda: greedy(None),
        "greedy, constrained": lambda: greedy(constraint),
        "sampled": lambda: sampled(None),
        "sampled, constrained": lambda: sampled(constraint),
    }


def is_strict(text: str) -> bool:
    """Whether a text is an answer in which no name comes twice."""
    try:
        parse_answer(text)
    except InputError:
        return False
    return True


if __name__ == "__main__":
    main()
