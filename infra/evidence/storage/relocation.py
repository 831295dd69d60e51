"""Is a copied store as good as the first? A store is copied to a folder and to S3, cut by SIGKILL
on the way, verified, trained on and promoted from; its audit folder verifies where nothing else is.

The dataset is a real one of the ad world, ingested in this process. Trained is the stage
``finetune_sd`` by its own worker's function, in this process and without Ray. The stages between,
whose numbers are not the subject, are stand-ins: outputs of the right kinds, made from the right
inputs, of a few bytes. The chain, the signature and the audit are those of a promotion; what is
left out is Airflow, so nobody is asked.

S3 is the server that ``AWS_ENDPOINT_URL`` names; without ``--s3`` there is only the folder. A step
that is done stands in ``--home`` and is not run again.

    python -m infra.evidence.storage.relocation [--s3 s3://BUCKET/PREFIX] [--home
        .boig/evidence/relocation] [--json infra/evidence/results/relocation.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.config import load_recipe
from boig_core.data import dataset, ingestion
from boig_core.errors import UserError
from boig_core.orchestration.promotion.chain import verify_chain
from boig_core.storage import commit, evidence, manifest, marker, store
from boig_core.storage.check import UNFINISHED, check_store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.marker import MARKER
from boig_core.storage.stage import Workspace
from infra.evidence import published

_RUN: Final = "runs/boig_promote/relocation"
_SETTINGS: Final = ("data.name=relocation", "sd.steps=4", "sd.batch=4", "sd.checkpoint_every=2")
_STAND_INS: Final[Mapping[Stage, Mapping[str, tuple[str, str, tuple[str, ...]]]]] = {
    Stage.FINETUNE_LLM: {
        "boigllm": ("models/boigllm", "boigllm", ("dataset",)),
        "no_kpi": ("models/boigllm-no-kpi", "boigllm", ("dataset",)),
    },
    Stage.EVALUATE_LLM: {
        "description": ("evaluations/description", "description", ("dataset", "boigllm", "no_kpi"))
    },
    Stage.CALIBRATE: {
        "calibration": ("evaluations/calibration", "calibration", ("dataset", "boigllm"))
    },
    Stage.DDPO: {"boigsd": ("models/boigsd", "sd", ("dataset", "boigllm", "calibration"))},
    Stage.EVALUATE_SD: {
        "generation": (
            "evaluations/generation",
            "generation",
            ("dataset", "boigllm", "calibration", "high_kpi", "boigsd"),
        )
    },
    Stage.REPORT: {
        "report": ("reports", "report", ("dataset", "description", "calibration", "generation"))
    },
}
"""Outputs of stages that are not run, by name: family, kind and inputs."""
_BEFORE: Final = (Stage.FINETUNE_LLM, Stage.EVALUATE_LLM, Stage.CALIBRATE)
_AFTER: Final = (Stage.DDPO, Stage.EVALUATE_SD, Stage.REPORT)


def main() -> int:
    """Run what is not done yet; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence/relocation"))
    parser.add_argument("--s3", help="where the copy on S3 goes; its bucket is made")
    parser.add_argument("--posts", type=int, default=120)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    home = args.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    source, away = str(home / "source"), home / "away"
    targets = {"folder": str(home / "copy")} | ({"s3": args.s3.rstrip("/")} if args.s3 else {})
    result: dict[str, Any] = {
        "stand_ins": [stage.value for stage in _STAND_INS],
        "source": once(home, "source", lambda: build(source, home, args.posts)),
    }
    for name, target in targets.items():
        result[name] = {"copy": once(home, f"{name}-copy", partial(copied, source, target))}
    # Nothing of what follows may come from the first store.
    if Path(source).exists():
        Path(source).rename(away)
    for name, target in targets.items():
        result[name] |= {
            "trained": once(home, f"{name}-trained", partial(trained, target)),
            "promoted": once(home, f"{name}-promoted", partial(promoted, target, home, name)),
        }
    print(json.dumps(result, indent=1))
    if args.json:
        published.save(args.json, result)
    return 0


def once(home: Path, name: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step gives, from ``home`` where it is done."""
    file = home / f"{name}.json"
    if not file.exists():
        started = time.perf_counter()
        step = act() | {"seconds": round(time.perf_counter() - started, 2)}
        file.with_suffix(".new").write_text(json.dumps(step))
        file.with_suffix(".new").rename(file)
        print(f"{name}: {step}", flush=True)
    done: dict[str, Any] = json.loads(file.read_text())
    return done


def build(root: str, home: Path, posts: int) -> dict[str, Any]:
    """A store with a dataset and what a candidate comes from."""
    shutil.rmtree(root, ignore_errors=True)
    world = home / "world"
    if not (world / "posts.jsonl").exists():
        write_world(posts, 0, Law.load("sunlit"), world)
    marker.ensure(root)
    job = _job(root, Stage.INGEST, {"posts": str(world / "posts.jsonl")})
    with tempfile.TemporaryDirectory(prefix="boig-evidence-") as scratch:
        dataset_version = ingestion.ingest(
            job.input("posts"),
            None,
            job.recipe.data,
            job.recipe.seed,
            root=store.join(root, "datasets", job.recipe.data.name),
            scratch=Path(scratch),
            crew=ingestion.OneProcess(),
        )
        uri = Workspace(job, Path(scratch)).publish(
            f"datasets/{job.recipe.data.name}",
            dataset_version.folder,
            kind=dataset.KIND,
            meta=dataset_version.meta,
            blobs=dataset_version.blobs,
        )
    commit.commit(job.attempt_uri, {"dataset": uri}, dataset_version.meta)
    outputs = {"dataset": uri}
    for stage in _BEFORE:
        outputs |= _stand_in(root, stage, outputs)
    return {
        "samples": dataset_version.meta["samples"],
        "images": dataset_version.meta["images"],
        **_checked(root),
    }


def copied(source: str, target: str) -> dict[str, Any]:
    """Copy, cut by SIGKILL once some of the files are there; then to the end, and compare."""
    if store.is_s3(target):
        _make_bucket(target)
    for path, _ in store.list_files(target):
        store.delete_file(store.join(target, path))
    files = dict(store.list_files(source))
    command = [sys.executable, "-m", "boig_core.cli", "store", "copy", source, target]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(store.list_files(target)) < len(files) // 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = dict(store.list_files(target))
    cut = {
        "killed": process.returncode == -signal.SIGKILL,
        "files_after_kill": len(there.keys() & files.keys()),
        "says_unfinished": UNFINISHED in there and MARKER not in there,
        "readable_outputs_after_kill": _readable(target),
    }
    answer = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    same = all(
        store.read_bytes(store.join(source, path)) == store.read_bytes(store.join(target, path))
        for path in files
    )
    second = json.loads(answer.stdout)
    return {
        **cut,
        "files": second["files"],
        "copied_by_second_call": second["copied"],
        "every_byte_the_same": same and dict(store.list_files(target)).keys() == files.keys(),
        **_checked(target),
    }


def trained(root: str) -> dict[str, Any]:
    """Train on the copy, from its dataset into it."""
    from ray_jobs import finetune_sd

    outputs = _outputs(root)
    job = _job(root, Stage.FINETUNE_SD, {"dataset": outputs["dataset"]}, new_try=True)
    uri, loss, _ = finetune_sd.train({"job": job})
    commit.commit(job.attempt_uri, {"high_kpi": uri}, {"loss": loss})
    outputs |= {"high_kpi": uri}
    for stage in _AFTER:
        outputs |= _stand_in(root, stage, outputs)
    samples = dataset.read_samples(outputs["dataset"])
    images = dataset.read_images(outputs["dataset"], {sample.image for sample in samples})
    return {
        "steps": job.recipe.sd.steps,
        "loss_is_finite": loss is not None and loss == loss,
        "samples_read": len(samples),
        "images_read": len(images),
        "model": manifest.verify(uri).kind,
        **_checked(root),
    }


def promoted(root: str, home: Path, name: str) -> dict[str, Any]:
    """Follow the chain of the candidate in the copy, sign a decision on it, and audit it."""
    outputs = _outputs(root)
    chain = verify_chain(outputs["boigsd"], outputs["report"], root)
    keys = _keys(home)
    os.environ["BOIG_SIGNING_KEY"], os.environ["BOIG_VERIFY_KEY"] = map(str, keys)
    body = {
        "candidate": outputs["boigsd"].removeprefix(f"{root}/"),
        "report": outputs["report"].removeprefix(f"{root}/"),
        "manifest": chain.candidate.digest,
        "decision": evidence.APPROVED,
        "by": "evidence",
    }
    decision = store.join(root, _RUN, "decision.json")
    store.write_bytes(decision, json.dumps(body, indent=1).encode())
    signed = evidence.keep(root, decision)
    evidence.require_promoted(root, decision, outputs["boigsd"])
    folder = home / f"audit-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    evidence.export(root, _RUN, folder)
    return {
        "chain_verified": chain.candidate.uri == outputs["boigsd"],
        "signed": signed,
        **audited(folder, keys[1]),
    }


def audited(folder: Path, key: Path) -> dict[str, Any]:
    """Verify an audit folder where there is nothing but it, the public key, openssl and sha256sum;
    then with one byte of each of its files changed in turn."""
    with tempfile.TemporaryDirectory(prefix="boig-auditor-") as scratch:
        machine = Path(scratch)
        furnish(machine, folder, key)
        whole = verifies(machine)
        files = sorted(path for path in (machine / "audit").rglob("*") if path.is_file())
        # The page that explains the folder is not signed; the command compares it instead.
        changed = [path for path in files if path.name != evidence.README]
        refused = 0
        for path in changed:
            data = path.read_bytes()
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            refused += not verifies(machine)
            path.write_bytes(data)
        again = verifies(machine)
    refused_here = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        try:
            evidence.verify_export(folder, key)
        except UserError:
            refused_here += 1
        path.write_bytes(data)
    return {
        "files": len(files),
        "verifies_in_an_empty_root": whole and again,
        "changed_files_refused": [refused, len(changed)],
        "refused_by_boig_audit": [refused_here, len(files)],
        "decision": evidence.verify_export(folder, key)["decision"],
    }


def furnish(machine: Path, folder: Path, key: Path) -> None:
    """Make a root directory that holds an audit folder, a public key, a shell, openssl and
    sha256sum with their libraries, and nothing else: no Python, no boig."""
    for program in ("/bin/sh", shutil.which("openssl"), shutil.which("sha256sum")):
        linked = subprocess.run(
            ["ldd", str(program)], check=True, capture_output=True, text=True
        ).stdout
        libraries = [word for word in linked.split() if word.startswith("/")]
        for path in [str(program), *libraries]:
            target = machine / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copytree(folder, machine / "audit")
    shutil.copy(key, machine / "key.pub")


def verifies(machine: Path) -> bool:
    """Whether the two commands of the folder's README accept it there, without a network."""
    script = (
        "cd /audit && openssl pkeyutl -verify -pubin -inkey /key.pub -rawin -in SHA256SUMS"
        " -sigfile SHA256SUMS.sig && sha256sum --check --strict --quiet SHA256SUMS"
    )
    command = ["unshare", "--map-root-user", "--net", "--mount", "chroot", str(machine)]
    answer = subprocess.run(
        [*command, "/bin/sh", "-c", script],
        check=False,
        capture_output=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return answer.returncode == 0


def _job(root: str, stage: Stage, inputs: Mapping[str, str], new_try: bool = False) -> Job:
    """A job that has begun."""
    task = store.join(root, "runs", "dag", "relocation", stage)
    # An attempt of a try that was cut goes on from nothing: a new one begins.
    number = max(commit.attempts(task), default=0) + 1 if new_try else 1
    job = Job(
        stage=stage,
        recipe=load_recipe("tiny", _SETTINGS),
        inputs=dict(inputs),
        store=root,
        root="dag/relocation",
        task=task,
        attempt=number,
        triggered_by=(),
    )
    write_job(job)
    return job


def _stand_in(root: str, stage: Stage, outputs: Mapping[str, str]) -> dict[str, str]:
    """Commit outputs of a stage that is not run."""
    stand_in = _STAND_INS[stage]
    needed = {name for _, _, inputs in stand_in.values() for name in inputs if name in outputs}
    job = _job(root, stage, {name: outputs[name] for name in sorted(needed)}, new_try=True)
    uris = {}
    for name, (family, kind, _) in stand_in.items():
        with tempfile.TemporaryDirectory(prefix="boig-evidence-") as scratch:
            (Path(scratch) / "report.json").write_text(json.dumps({"stand_in": stage.value}))
            uris[name] = Workspace(job, Path(scratch)).publish(family, Path(scratch), kind=kind)
    commit.commit(job.attempt_uri, uris, {})
    return uris


def _outputs(root: str) -> dict[str, str]:
    """Every committed output of the store by name, of the newest attempt."""
    outputs: dict[str, str] = {}
    for stage in Stage:
        task = store.join(root, "runs", "dag", "relocation", stage)
        for number in commit.attempts(task):
            done = commit.read_commit(commit.attempt_uri(task, number))
            outputs |= {} if done is None else done["outputs"]
    return outputs


def _checked(root: str) -> dict[str, Any]:
    inspection = check_store(root, lambda line: None)
    return {"outputs": inspection.outputs, "faults": len(inspection.faults)}


def _readable(root: str) -> int:
    """Outputs that a reader would take, each whole."""
    count = 0
    for path, _ in store.list_files(root):
        if path.endswith("/manifest.json"):
            try:
                manifest.verify(store.join(root, path.rsplit("/", 1)[0]))
                count += 1
            except UserError:
                continue
    return count


def _keys(home: Path) -> tuple[Path, Path]:
    """A key pair, made by openssl as the documentation says."""
    private, public = home / "key.pem", home / "key.pub"
    if not public.exists():
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)], check=True
        )
        command = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)]
        subprocess.run(command, check=True)
    return private, public


def _make_bucket(uri: str) -> None:
    import boto3

    boto3.session.Session().client("s3").create_bucket(Bucket=store.bucket_and_key(uri)[0])


if __name__ == "__main__":
    sys.exit(main())
