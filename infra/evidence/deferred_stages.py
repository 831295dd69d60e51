"""Does one triggerer carry 200 deferred stages? Lag of its event loop, and time from the end of a job to the end of its task.

Starts Airflow with its LocalExecutor on Postgres (the services of the fault tests) and a stub of Ray's Jobs API in a process of its own.
All stages run before the first one ends; then they end one after another, so that what is measured is the way of one job's end through
triggerer, scheduler and worker, and not the queue of workers on a small machine. The lag is what a probe trigger on the same event loop
waits beyond what it asked for, from the first end to the last. Exit code 1: the largest lag is 100 ms or more, or half of the tasks ended
3 s or more after their jobs.

    PYTHONPATH=. python infra/evidence/deferred_stages.py [--stages 200] [--spacing 3] [--json deferred.json] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tests.faults.airflow_services import SERVERS, Installation, Run, until

FOLDER: Final = Path(__file__).resolve().parent
LAG_S: Final = 0.1
LATENCY_S: Final = 3.0
WAIT_S: Final = 3600.0


def main() -> int:
    """Measure, print, and say by the exit code whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=200, help="stages at once")
    parser.add_argument("--spacing", type=float, default=3.0, help="seconds from one job's end to the next one's")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--smoke", action="store_true", help="4 stages, no limits: does the script work?")
    args = parser.parse_args()
    if args.smoke:
        args.stages, args.spacing = 4, 0.5
    home = Path(tempfile.mkdtemp(prefix="boig-deferred-"))
    home.chmod(0o755)
    machine = Installation(home, [FOLDER / "deferred_stages_dag.py"])
    try:
        found = measure(machine, args.stages, args.spacing)
    finally:
        machine.kill_all()
        shutil.rmtree(home)
    print("\n".join(f"{name}: {value}" for name, value in found.items() if not isinstance(value, list)), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0 if args.smoke or (found["lag_s"]["max"] < LAG_S and found["latency_s"]["median"] < LATENCY_S) else 1


def measure(machine: Installation, stages: int, spacing_s: float) -> dict[str, Any]:
    """Run the stages and the probe; all times are in seconds."""
    ray = f"http://127.0.0.1:{machine.ports.dashboard}"
    paths = os.pathsep.join([str(FOLDER), machine.env["PYTHONPATH"]])
    machine.env.update({"RAY_API_ADDRESS": ray, "BOIG_STAGES": str(stages), "PYTHONPATH": paths})
    machine.prepare()
    machine.start("ray", [sys.executable, str(FOLDER / "deferred_stages_ray.py"), str(machine.ports.dashboard)], machine.env)
    machine.start_airflow(*SERVERS)
    until("the DAGs are known", lambda: machine.airflow.has_dags(["stages", "probe"]))
    run = machine.airflow.start("stages")
    until("all stages are deferred", lambda: states(machine, run) == ["deferred"] * stages, WAIT_S)
    probe = machine.airflow.start("probe")
    until("the probe runs", (machine.signals / "probing").exists)
    asked, since = told(ray)["requests"], time.monotonic()
    httpx.post(f"{ray}/end", params={"spacing_s": spacing_s}, trust_env=False).raise_for_status()
    until("all stages end", lambda: states(machine, run) == ["success"] * stages, WAIT_S)
    seconds, said = time.monotonic() - since, told(ray)
    (machine.signals / "stop").touch()
    until("the probe ends", lambda: machine.airflow.state(probe, "probe") == "success")
    ends = {task.rsplit("/", 1)[1]: end for task, end in said["ends"].items()}
    tasks = machine.airflow.all_tasks(run)
    latencies = [datetime.fromisoformat(task["end_date"]).timestamp() - ends[name] for name, task in tasks.items()]
    return {
        "stages": stages,
        "spacing_s": spacing_s,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "lag_s": summary(json.loads((machine.signals / "lags.json").read_text())),
        "latency_s": summary(latencies),
        "blocked_warnings": machine.log("triggerer").count("async thread was blocked"),
        "requests_per_s": round((said["requests"] - asked) / seconds, 2),
        "latencies_s": sorted(latencies),
    }


def states(machine: Installation, run: Run) -> list[str | None]:
    """State of every stage."""
    return [task["state"] for task in machine.airflow.all_tasks(run).values()]


def told(ray: str) -> dict[str, Any]:
    """What the stub has seen."""
    answer: dict[str, Any] = httpx.get(f"{ray}/ends", trust_env=False).json()
    return answer


def summary(values: Sequence[float]) -> dict[str, float]:
    """Number, median, 95th percentile and maximum."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 4),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 4),
        "max": round(ordered[-1], 4),
    }


if __name__ == "__main__":
    sys.exit(main())
