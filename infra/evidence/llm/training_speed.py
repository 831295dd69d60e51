"""How fast does BoigLLM train? Tokens per second and peak memory, packed and not, beside TRL's
SFTTrainer on the same examples.

Model, examples, precision, sequence length, activation checkpointing and DeepSpeed's config are the
same for both; each runs in a process of its own, one after the other, in turn. Counted are the
tokens of prompts and answers that a step saw; padding counts nothing, so a step that pads more is
slower. The unpacked rate is also held against the share of padding that its batches have. TRL is no
dependency of boig: ``--trl`` is the Python of an environment that has it, with the same torch,
transformers and DeepSpeed.

    python -m infra.evidence.llm.training_speed --json speed.json [--trl PYTHON] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from infra.evidence import published

HERE: Final = Path(__file__).resolve().parent
WORKER: Final = "infra.evidence.llm.training_speed"
SIZES: Final[dict[str, dict[str, int]]] = {
    "smoke": {"hidden": 64, "layers": 2, "heads": 4, "samples": 64, "steps": 3},
    "small": {"hidden": 256, "layers": 4, "heads": 4, "samples": 512, "steps": 10},
}
CONTEXT: Final = 512
MICRO: Final = 8
ACCUMULATION: Final = 2
WARM: Final = 2
"""Steps that are left out of the rates: the first ones allocate."""


def main() -> int:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", type=Path, help="Python of an environment with TRL")
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often each is run, in turn; the median counts"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="with activation checkpointing, on both sides"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny model, three steps: does the script work?"
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "SETTINGS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    # The script starts itself for each run: the peak of memory is that of a whole process.
    if args.worker:
        print(json.dumps(train(Path(args.worker[0]), json.loads(args.worker[1]))))
        return 0
    size = SIZES["smoke" if args.smoke else "small"]
    with tempfile.TemporaryDirectory(prefix="boig-speed-") as scratch:
        folder = Path(scratch)
        lengths = write_inputs(folder, size)
        runs = compare(folder, size, args)
    result = {
        "machine": f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        "size": size,
        "padding": padding(lengths),
        "runs": runs,
    }
    print(table(result))
    if args.json:
        published.save(args.json, result)
    return 0


def write_inputs(folder: Path, size: dict[str, int]) -> list[int]:
    """A model of random weights and examples of random tokens, of lengths as posts have them;
    returns these lengths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from boig_core.llm.tokens import build_tokenizer

    tokenizer = build_tokenizer(["one post or another"], 1024)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=size["hidden"],
        intermediate_size=size["hidden"] * 8 // 3,
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"],
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    draw = np.random.default_rng(0)
    lengths = []
    with (folder / "examples.jsonl").open("w") as out:
        for _ in range(size["samples"]):
            prompt, answer = int(draw.integers(50, 220)), int(draw.integers(35, 90))
            ids = draw.integers(400, 8192, prompt + answer).tolist()
            out.write(
                json.dumps({"input_ids": ids, "completion_mask": [0] * prompt + [1] * answer})
                + "\n"
            )
            lengths.append(prompt + answer)
    return lengths


def padding(lengths: Sequence[int]) -> float:
    """Share of padding where each micro-batch is padded to its longest sample."""
    parts = [lengths[i : i + MICRO] for i in range(0, len(lengths), MICRO)]
    return 1 - sum(lengths) / sum(max(part) * len(part) for part in parts)


def compare(
    folder: Path, size: dict[str, int], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median tokens per second and peak memory of each way, run in turn."""
    mean = np.mean(
        [
            len(json.loads(line)["input_ids"])
            for line in (folder / "examples.jsonl").read_text().splitlines()
        ]
    )
    result: dict[str, list[dict[str, Any]]] = {}
    for _ in range(1 if args.smoke else args.repeats):
        # In turn, so that a slow spell of the machine falls on all of them.
        for packing in (True, False):
            settings = {
                "packing": packing,
                "context": CONTEXT,
                "micro_batch": MICRO,
                # A packed row of TRL's holds several samples: as many tokens a micro-batch are
                # fewer rows.
                "micro_rows": max(1, round(MICRO * mean / CONTEXT)) if packing else MICRO,
                "batch": MICRO * ACCUMULATION,
                "steps": size["steps"],
                "lr": 1e-3,
                "gradient_checkpointing": args.checkpointing,
            }
            way = "packed" if packing else "unpacked"
            own = _run(
                [sys.executable, "-m", WORKER, "--worker", str(folder), json.dumps(settings)]
            )
            result.setdefault(f"boig {way}", []).append(own)
            # After boig's run, whose engine says which config DeepSpeed had: the peer gets the
            # same.
            if args.trl:
                config = json.dumps({**settings, "deepspeed": _for_trl(own["deepspeed"])})
                peer = _run(
                    [str(args.trl), str(HERE / "training_speed_trl.py"), str(folder), config]
                )
                result.setdefault(f"trl {way}", []).append(peer)
    return {name: _summary(rows) for name, rows in result.items()}


def train(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The training of a stage, fed with the examples: seconds and tokens of each step, peak memory,
    DeepSpeed's config."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from boig_core.config import LLM
    from boig_core.llm.finetune import checked_loss, engine_config
    from boig_core.llm.tokens import Example
    from boig_core.training.engine import Engine

    llm = LLM(
        context=settings["context"],
        steps=settings["steps"],
        batch=settings["batch"],
        micro_batch=settings["micro_batch"],
        lr=settings["lr"],
        packing=settings["packing"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        zero_stage=1,
        workers=1,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", attn_implementation="sdpa", trust_remote_code=False
    ).train()
    if llm.gradient_checkpointing:
        model.activation_checkpointing_enable()
    pad = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False).pad_token_id
    examples = []
    for line in (folder / "examples.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids_T, split = np.array(row["input_ids"], np.int32), row["completion_mask"].index(1)
        examples.append(Example(ids_T[:split], ids_T[split:]))
    engine = Engine.create(model, engine_config(llm))
    loss = checked_loss(engine, llm, pad, examples[:2])
    seconds, tokens = [], []
    for step in range(llm.steps):
        batch = [
            examples[i % len(examples)] for i in range(step * llm.batch, (step + 1) * llm.batch)
        ]
        started = time.monotonic()
        engine.step(loss.of_step(batch))
        seconds.append(time.monotonic() - started)
        tokens.append(sum(example.length for example in batch))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "tokens": tokens, "peak_mib": peak, "deepspeed": engine.settings}


def _for_trl(settings: dict[str, Any]) -> dict[str, Any]:
    """The same DeepSpeed config, with the batch and the optimizer left to the trainer, which
    insists on setting them."""
    kept = {key: value for key, value in settings.items() if key != "optimizer"}
    return {**kept, "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}


def _run(command: list[str]) -> dict[str, Any]:
    # As a launcher sets them for a group of one: DeepSpeed reads its place from these.
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
    }
    machine = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **alone, **machine}
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    # The last line: libraries print to the same output before.
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    rates = [sum(row["tokens"][WARM:]) / sum(row["seconds"][WARM:]) for row in rows]
    return {
        "tokens_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "peak_mib": max(r["peak_mib"] for r in rows),
    }


def table(result: dict[str, Any]) -> str:
    """The numbers as text."""
    lines = [
        f"{result['machine']}; {result['versions']}; padding of unpacked micro-batches {result['padding']:.0%}"
    ]
    for name, row in result["runs"].items():
        spread = f"[{row['slowest']:.0f}, {row['fastest']:.0f}]"
        lines.append(
            f"{name:16s} {row['tokens_per_s']:8.0f} tokens/s {spread:>18s}   peak {row['peak_mib']:6.0f} MiB"
        )
    runs = result["runs"]
    if "trl packed" in runs:
        # Packing can save the padding and no more, so against an unpacked peer that share is the
        # mark, less a tenth.
        packed = runs["boig packed"]["tokens_per_s"] / runs["trl packed"]["tokens_per_s"]
        floor = 0.9 / (1 - result["padding"])
        plain = runs["boig packed"]["tokens_per_s"] / runs["trl unpacked"]["tokens_per_s"]
        lines.append(
            f"packed: {packed:.2f} of TRL's packing; {plain:.2f} of TRL without, where 0.9 / (1 - padding) = {floor:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
