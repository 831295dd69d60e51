"""The peer's side of `training_speed`: TRL's SFTTrainer on the same examples and model, in an
environment of its own without boig.

    DS_ACCELERATOR=cpu LOCAL_SIZE=1 RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 \\
        MASTER_ADDR=127.0.0.1 MASTER_PORT=29533 \\
        PYTHON infra/evidence/llm/training_speed_trl.py FOLDER '{"packing": true, …}'

Prints one JSON line: seconds of each optimizer step, its tokens (prompts and answers, no padding),
and the peak of resident memory.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self._started = time.monotonic()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds.append(time.monotonic() - self._started)


class Counted(SFTTrainer):
    """Counts the tokens that enter the model and are no padding."""

    tokens: list[int]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One micro-batch."""
        seen = (
            inputs["attention_mask"].sum()
            if "attention_mask" in inputs
            else inputs["input_ids"].numel()
        )
        self.tokens.append(int(seen))
        return super().training_step(model, inputs, *args, **kwargs)


def main(folder: Path, settings: dict[str, Any]) -> None:
    """Train for some steps and print what they took."""
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    accumulation = settings["batch"] // settings["micro_batch"]
    # A packed row holds several samples, so as many samples per step are fewer rows.
    micro, steps = settings["micro_rows"], settings["steps"]
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            packing=settings["packing"],
            max_length=settings["context"],
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            learning_rate=settings["lr"],
            lr_scheduler_type="cosine",
            warmup_steps=1,
            max_grad_norm=1.0,
            completion_only_loss=True,
            gradient_checkpointing=settings["gradient_checkpointing"],
            bf16=False,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=0,
            deepspeed=settings["deepspeed"],
        )
        clock = Clock()
        trainer = Counted(
            model=AutoModelForCausalLM.from_pretrained(
                folder / "model", attn_implementation="sdpa", trust_remote_code=False
            ),
            processing_class=AutoTokenizer.from_pretrained(
                folder / "model", trust_remote_code=False
            ),
            args=config,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
        )
        trainer.tokens = []
        trainer.train()
    # One count for each micro-batch; a step has several.
    by_step = [
        sum(trainer.tokens[i : i + accumulation])
        for i in range(0, len(trainer.tokens), accumulation)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": clock.seconds, "tokens": by_step, "peak_mib": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
