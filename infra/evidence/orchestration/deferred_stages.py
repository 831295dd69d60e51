"""Does one triggerer carry 200 deferred stages? Lag of its event loop, and time from the end of a
job to the end of its task.

Starts Airflow with its LocalExecutor on Postgres (the services of the fault tests) and a stub of
Ray's Jobs API in a process of its own. All stages run before the first one ends; then they end one
after another, so that what is measured is the way of one job's end through triggerer, scheduler and
worker, and not the queue of workers on a small machine: ``--spacing`` must exceed what that machine
needs for a task (``seconds_a_task`` says what it took to defer one, which is about the same).
``event_s`` is from a job's end to its trigger's event, ``task_s`` to the end of its task. ``lag_s``
is what a probe trigger on the same event loop waits beyond what it asked for, ``collection_s`` how
long a collection of garbage held that process, and ``idle_loop_lag_s`` what an event loop in
another process does that has nothing else to do: that is the machine's doing.

``--other`` names a folder with astro-provider-ray (see `deferred_triggers`): its operator then runs
the same on the same Airflow. It is told to look each second, as boig's does; by itself it would
look each minute.

    python -m infra.evidence.orchestration.deferred_stages [--stages 200] [--spacing 3] [--other
        FOLDER] [--json FILE]

Exit code 1: the largest lag of boig's is 100 ms or more, or half of its tasks ended 3 s or more
after their jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from boig_core.config import load_recipe
from boig_core.demo.processes import choose_ports
from infra.evidence import published
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import SERVERS, AirflowOnPostgres, until
from infra.evidence.orchestration.deferred_triggers import LAG_S, LATENCY_S, IdleLoop, summary

FOLDER: Final = Path(__file__).resolve().parent
PROVIDERS: Final = ("boig", "astro-provider-ray")
FILES: Final = ("deferred_stages_dag.py", "deferred_stages_other_dag.py")
WAIT_S: Final = 3600.0
EVERY_S: Final = 2.0
"""Seconds between two looks at the tasks: on a small machine each costs what is measured."""
OVER: Final = {"success", "failed", "upstream_failed"}
STARTED: Final = re.compile(r"trigger .* starting")
FIRED: Final = re.compile("Trigger fired event")
"""What Airflow's triggerer writes to a task's log."""


def main() -> int:
    """Measure, print, and say by the exit code whether the limits hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=int, default=200, help="stages at once")
    parser.add_argument(
        "--spacing",
        type=float,
        default=3.0,
        help="mean seconds from one job's end to the next one's",
    )
    parser.add_argument("--other", type=Path, help="folder with astro-provider-ray")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="boig-deferred-"))
    # `mkdtemp` lets only this user in, but Postgres runs as another one.
    home.chmod(0o755)
    files = [FOLDER / name for name in FILES[: 2 if args.other else 1]]
    # MLflow's port is the database's; nothing asks for it.
    machine = AirflowOnPostgres(home, files, choose_ports(), {})
    result: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "stages": args.stages,
        "spacing_s": args.spacing,
    }
    providers = PROVIDERS if args.other else PROVIDERS[:1]
    try:
        ray = start(machine, args)
        for dag in providers:
            result[dag] = measure(machine, ray, dag, args.stages, args.spacing)
    finally:
        machine.kill_all()
        shutil.rmtree(home)
    print(*(f"{name}: {value}" for name, value in flat(result).items()), sep="\n")
    print(*(sentence(dag, result[dag]) for dag in providers), sep="\n", flush=True)
    if args.json:
        published.save(args.json, result)
    boig = result["boig"]
    return 0 if boig["lag_s"]["max"] < LAG_S and boig["task_s"]["median"] < LATENCY_S else 1


def start(machine: AirflowOnPostgres, args: argparse.Namespace) -> str:
    """Start all services; returns the address of the stub."""
    ray = f"http://127.0.0.1:{machine.ports.dashboard}"
    # The triggerer imports the probe's trigger by the name of its file.
    paths = [str(FOLDER), machine.env["PYTHONPATH"], *([str(args.other)] if args.other else [])]
    connection = json.dumps({"conn_type": "ray", "extra": {"address": ray}})
    machine.env |= {
        "RAY_API_ADDRESS": ray,
        "AIRFLOW_CONN_RAY_OTHER": connection,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    # Ray's client takes long to import on a busy machine, and Airflow gives up on a DAG file after
    # 30 s.
    machine.env |= {"BOIG_STAGES": str(args.stages), "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120"}
    machine.prepare()
    recipe = load_recipe("tiny").model_dump_json()
    (machine.store / "recipe.json").write_text(recipe, "utf-8")
    machine.start(
        "ray",
        [sys.executable, str(FOLDER / "deferred_stages_ray.py"), str(machine.ports.dashboard)],
        machine.env,
    )
    machine.start_airflow(*SERVERS)
    until(
        "the DAGs are known",
        lambda: machine.airflow.has_dags(["probe", *PROVIDERS[: 2 if args.other else 1]]),
    )
    return ray


def measure(
    machine: AirflowOnPostgres, ray: str, dag: str, stages: int, spacing_s: float
) -> dict[str, Any]:
    """Run the stages of one provider beside the probe, on an Airflow whose way to Ray leads to the
    stub at ``ray``; all times are in seconds."""
    # Before the stages, so that the loop's lag is known while they are deferred, too.
    probe = machine.airflow.start("probe")
    folder = machine.signals / probe.id
    until("the probe runs", (folder / "probing").exists)
    since, run = time.time(), machine.airflow.start(dag)
    until("all stages are waited for", lambda: all_wait(machine, run), WAIT_S, EVERY_S)
    deferred, asked = time.time(), told(ray)
    # Only while jobs end: this is what the lag of the same time is held against.
    with IdleLoop() as idle:
        httpx.post(
            f"{ray}/end", params={"spacing_s": spacing_s}, trust_env=False
        ).raise_for_status()
        until(
            "all stages end",
            lambda: all(task["state"] in OVER for task in machine.airflow.all_tasks(run).values()),
            WAIT_S,
            EVERY_S,
        )
        ended, answers = time.time(), told(ray)
    (folder / "stop").touch()
    until("the probe ends", lambda: machine.airflow.state(probe, "probe") == "success")
    # The stub still knows the jobs of the provider before, under the same names.
    ends = {name.rsplit("/", 1)[-1]: end for name, end in answers["ends"].items() if end > deferred}
    tasks = {
        name: task
        for name, task in machine.airflow.all_tasks(run).items()
        if task["state"] == "success"
    }
    probed = json.loads((folder / "lags.json").read_text())
    lags = probed["lags"]
    return {
        "states": Counter(task["state"] for task in machine.airflow.all_tasks(run).values()),
        "seconds_a_task": round((deferred - since) / stages, 2),
        "lag_s": summary([lag for at, lag in lags if deferred <= at < ended]),
        "lag_while_deferring_s": summary([lag for at, lag in lags if since <= at < deferred]),
        "collection_s": summary(
            [seconds for at, seconds in probed["collections"] if deferred <= at < ended]
        ),
        "idle_loop_lag_s": summary(idle.lags),
        "event_s": summary(
            [
                at - ends[name]
                for name, at in in_triggerer(machine, run, FIRED).items()
                if name in tasks
            ]
        ),
        "task_s": summary(
            [
                datetime.fromisoformat(task["end_date"]).timestamp() - ends[name]
                for name, task in tasks.items()
            ]
        ),
        "requests_per_s": round((answers["requests"] - asked["requests"]) / (ended - deferred), 2),
        "load": os.getloadavg()[0],
    }


def all_wait(machine: AirflowOnPostgres, run: Run) -> bool:
    """Whether the triggers of all stages have started; of those that have not failed already."""
    tasks, started = machine.airflow.all_tasks(run), in_triggerer(machine, run, STARTED)
    return bool(tasks) and all(
        name in started or task["state"] in OVER for name, task in tasks.items()
    )


def in_triggerer(machine: AirflowOnPostgres, run: Run, what: re.Pattern[str]) -> dict[str, float]:
    """When the triggerer said this of each task, by what it wrote to the tasks' logs."""
    # Others are just being written.
    lines = [
        json.loads(line) for line in machine.trigger_log(run).splitlines() if line.endswith("}")
    ]
    result = {
        line["task_id"]: line["timestamp"]
        for line in lines
        if "task_id" in line and what.fullmatch(line["event"])
    }
    return {task: datetime.fromisoformat(at).timestamp() for task, at in result.items()}


def sentence(dag: str, found: dict[str, Any]) -> str:
    """What is worth saying of one provider."""
    lags = {
        name: f"{1e3 * found[name]['p99']:.0f} ms (99 %), {1e3 * found[name]['max']:.0f} ms at most"
        for name in ("lag_s", "idle_loop_lag_s")
    }
    times = {
        name: f"{found[name]['median']:.1f} s at the median, {found[name]['p95']:.1f} s (95 %)"
        for name in ("event_s", "task_s")
    }
    return (
        f"{dag}: lag {lags['lag_s']}; of an idle loop {lags['idle_loop_lag_s']}; from a job's end to the event {times['event_s']}, "
        f"to the end of the task {times['task_s']}; {found['requests_per_s']:g} requests/s; {dict(found['states'])}"
    )


def flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers by dotted name."""
    lines: dict[str, Any] = {}
    for name, value in found.items():
        lines |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, dict) and "median" not in value
            else {prefix + name: value}
        )
    return lines


def told(ray: str) -> dict[str, Any]:
    """What the stub has seen."""
    answer: dict[str, Any] = httpx.get(f"{ray}/told", trust_env=False).json()
    return answer


if __name__ == "__main__":
    sys.exit(main())
