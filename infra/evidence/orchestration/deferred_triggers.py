"""What 200 waiting triggers cost one event loop: its lag, the time from a job's end to the
trigger's event, requests to Ray, CPU.

The triggers alone, without Airflow's servers (see `deferred_stages` for the whole): each arm is a
process of its own that watches the same number of jobs of the same stub of Ray's Jobs API.
``idle_loop_lag_s`` is the lag of an event loop in another process that has nothing else to do: that
is the machine's doing. If ``--other`` names a folder with astro-provider-ray, its trigger follows,
once told to look as often as boig's, once as its operator sets it::

    pip install --target FOLDER --no-deps astro-provider-ray==0.4.0 \\
        apache-airflow-providers-cncf-kubernetes 'kubernetes<37' \\
        aiofiles durationpy oauthlib requests-oauthlib websocket-client
    python -m infra.evidence.orchestration.deferred_triggers [--other FOLDER] [--triggers 200]
        [--spacing 0.3] [--json FILE] [--smoke]

Exit code 1: the largest lag of boig's is 100 ms or more, or half of its events came 3 s or more
after their job's end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import httpx

from infra.evidence import published

STUB: Final = Path(__file__).resolve().parent / "deferred_stages_ray.py"
LAG_S: Final = 0.1
LATENCY_S: Final = 3.0
TICK_S: Final = 0.01
"""What the ticker asks for; what it gets beyond that is the loop's lag."""


@dataclass(frozen=True)
class Arm:
    """One set of triggers in one event loop.

    Attributes:
        name: for the table.
        poll_s: seconds between two looks.
        other: folder of astro-provider-ray; None: boig's trigger.
        triggers: how many.
        wait_s: seconds to start in, and again before the first job ends.
        spacing_s: mean seconds from one job's end to the next one's.
        ray: address of the stub.
        store: where boig's attempts lie.
    """

    name: str
    poll_s: int
    other: str | None
    triggers: int
    wait_s: float
    spacing_s: float
    ray: str = ""
    store: str = ""


def main() -> int:
    """Measure, print, and say by the exit code whether the limits hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, help="folder with astro-provider-ray")
    parser.add_argument("--triggers", type=int, default=200)
    parser.add_argument(
        "--wait",
        type=float,
        default=20.0,
        help="seconds to start in, and again before the first job ends",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=0.3,
        help="mean seconds from one job's end to the next one's",
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument(
        "--smoke", action="store_true", help="8 triggers, no limits: does the script work?"
    )
    args = parser.parse_args()
    if args.smoke:
        args.triggers, args.wait, args.spacing = 8, 1.0, 0.1
    arms = [Arm("boig", 1, None, args.triggers, args.wait, args.spacing)]
    if args.other:
        other = [
            replace(
                arms[0],
                name=f"astro-provider-ray, poll {poll_s} s",
                poll_s=poll_s,
                other=str(args.other),
            )
            for poll_s in (1, 60)
        ]
        arms += other[:1] if args.smoke else other
    result = {arm.name: run(arm) for arm in arms}
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    print(
        f"{args.triggers} triggers in one event loop, a job's end each {args.spacing:g} s: {machine}"
    )
    for name, numbers in result.items():
        print(f"{name}:", *(f"  {key} {value}" for key, value in numbers.items()), sep="\n")
    if args.json:
        published.save(args.json, {"machine": machine, "arms": result})
    boig = result["boig"]
    return (
        0
        if args.smoke or (boig["lag_s"]["max"] < LAG_S and boig["latency_s"]["median"] < LATENCY_S)
        else 1
    )


def run(arm: Arm) -> dict[str, Any]:
    """One arm: a stub and a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="boig-triggers-") as home:
        # Before the arm's process starts: it inherits this, and Airflow reads it as it is imported.
        os.environ.update({"AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"})
        stub = subprocess.Popen([sys.executable, str(STUB), str(port)])
        try:
            # Spawned and not forked, so that nothing that this process has imported or keeps in
            # memory is in the arm's.
            with (
                IdleLoop() as idle,
                ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
            ):
                result = pool.submit(
                    measure, replace(arm, ray=f"http://127.0.0.1:{port}", store=home)
                ).result()
            return {**result, "idle_loop_lag_s": summary(idle.lags)}
        finally:
            stub.terminate()
            stub.wait()


def measure(arm: Arm) -> dict[str, Any]:
    """In the arm's process: start the jobs, then watch them."""
    if arm.other:
        # At the end, so that its packages take the place of none that are installed.
        sys.path.append(arm.other)
    names = [f"job-{number:03}" for number in range(arm.triggers)]
    # The stub may still be starting, so the first request is repeated; a proxy cannot reach it.
    with httpx.Client(
        base_url=arm.ray, trust_env=False, transport=httpx.HTTPTransport(retries=10)
    ) as http:
        for name in names:
            # A job of `ray_jobs` has an attempt, in which boig's trigger looks for log and commit.
            entrypoint = (
                f"python -m ray_jobs.ingest {arm.store}/{name}/attempt-1/job.json"
                if arm.other is None
                else f"echo {name}"
            )
            body = {"submission_id": name, "entrypoint": entrypoint, "metadata": {"task": name}}
            http.post("/api/jobs/", json=body).raise_for_status()
    return asyncio.run(watch(arm, {name: _trigger(arm, name) for name in names}))


def _trigger(arm: Arm, name: str) -> Any:
    # astro-provider-ray finds its cluster by this connection; boig's trigger is told the address.
    os.environ["AIRFLOW_CONN_RAY_DEFAULT"] = json.dumps(
        {"conn_type": "ray", "extra": {"address": arm.ray}}
    )
    if arm.other is None:
        from boig_core.orchestration.jobs.ray_api import RayCluster
        from boig_core.orchestration.jobs.trigger import RayJobTrigger

        return RayJobTrigger(
            RayCluster(arm.ray).serialize(), name, arm.poll_s, f"{arm.store}/{name}/attempt-1"
        )
    from ray_provider.triggers import RayJobTrigger as Other

    return Other(name, "ray_default", None, None, "", arm.poll_s)


class IdleLoop:
    """A process with an event loop that only ticks while this is entered; its lags, in seconds, are
    in ``lags`` afterwards."""

    def __enter__(self) -> IdleLoop:
        self._here, there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_idle, args=(there,), daemon=True
        )
        self._process.start()
        # Ready when it ticks: its start must not be a load on what is measured.
        self._here.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._here.send("stop")
        self.lags: list[float] = self._here.recv()
        self._process.join()


def _idle(pipe: Connection) -> None:
    lags: list[float] = []

    async def run() -> None:
        ticking = asyncio.create_task(tick(lags))
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        ticking.cancel()

    asyncio.run(run())
    pipe.send(lags)


async def tick(lags: list[float]) -> None:
    """Note the lag of this event loop, in seconds, until cancelled."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK_S)
        lags.append(time.monotonic() - before - TICK_S)


async def watch(arm: Arm, triggers: dict[str, Any]) -> dict[str, Any]:
    """All triggers on this event loop, until each has fired; all times in seconds."""
    # What triggers log would be written from the loop that is measured.
    logging.disable(logging.INFO)
    lags: list[float] = []
    fired: dict[str, float] = {}

    async def fire(name: str, trigger: Any) -> None:
        async for _ in trigger.run():
            fired[name] = time.time()

    def told(path: str = "/told", method: str = "GET", **query: float) -> Any:
        return httpx.request(
            method, arm.ray + path, params=query, trust_env=False, timeout=60
        ).json()

    ticking = asyncio.create_task(tick(lags))
    waiting = [asyncio.create_task(fire(name, trigger)) for name, trigger in triggers.items()]
    # All triggers start in this time, which is told apart.
    await asyncio.sleep(arm.wait_s)
    # The stub is asked in a thread: a request that waits would be a lag of this loop itself.
    started, asked, cpu, since = (
        len(lags),
        (await asyncio.to_thread(told))["requests"],
        time.process_time(),
        time.monotonic(),
    )
    # No job ends in this time: what it costs to wait and nothing else.
    await asyncio.sleep(arm.wait_s)
    seconds = time.monotonic() - since
    asked, cpu = (await asyncio.to_thread(told))["requests"] - asked, time.process_time() - cpu
    await asyncio.to_thread(told, "/end", "POST", spacing_s=arm.spacing_s)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    ends = (await asyncio.to_thread(told))["ends"]
    ticking.cancel()
    return {
        "lag_s": summary(lags[started:]),
        "lag_at_start_s": summary(lags[:started]),
        "latency_s": summary([fired[name] - end for name, end in ends.items() if name in fired]),
        "failed": sum(isinstance(result, BaseException) for result in results),
        "requests_per_s": round(asked / seconds, 1),
        "cpu_share": round(cpu / seconds, 3),
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Number, median, 95th and 99th percentile and maximum."""
    # An arm of which every trigger failed still has a row.
    ordered = sorted(values) or [math.nan]
    at = {
        name: round(ordered[int(share * (len(ordered) - 1))], 4)
        for name, share in {"p95": 0.95, "p99": 0.99}.items()
    }
    return {
        "n": len(values),
        "median": round(statistics.median(ordered), 4),
        **at,
        "max": round(ordered[-1], 4),
    }


if __name__ == "__main__":
    sys.exit(main())
