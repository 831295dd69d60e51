"""Memory and CPU time of a command and of all that it starts, looked at while it runs.

RSS counts pages that processes share in each of them (Ray's object store is mapped into every
worker), PSS divides them, USS leaves them out: what a process has for itself. Leaves out: what the
numbers mean (see `ingest`).
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import psutil

_MIB: Final = 2**20


@dataclass
class Peak:
    """Largest values of a group of processes, in MiB: of the biggest process, and of all together
    at one moment."""

    rss: float = 0.0
    pss: float = 0.0
    uss: float = 0.0
    sum_pss: float = 0.0
    sum_uss: float = 0.0
    processes: int = 0

    def add(self, sizes: Sequence[tuple[float, float, float]]) -> None:
        """Take in one moment: RSS, PSS and USS of each process."""
        self.rss = max(self.rss, *(size[0] for size in sizes))
        self.pss = max(self.pss, *(size[1] for size in sizes))
        self.uss = max(self.uss, *(size[2] for size in sizes))
        self.sum_pss = max(self.sum_pss, sum(size[1] for size in sizes))
        self.sum_uss = max(self.sum_uss, sum(size[2] for size in sizes))
        self.processes = max(self.processes, len(sizes))


@dataclass
class WatchedProcess:
    """What a command took.

    Attributes:
        code: its exit code.
        output: its standard output.
        seconds: from its start to its end.
        peaks: by group of processes.
        shm: the most that lay in /dev/shm beyond what was there before, in MiB: the object store.
        total_pss: the most of all processes together, in MiB.
        cpu: seconds of CPU time by group.
        series: [seconds, USS of the driver, USS of the biggest worker, PSS of all] of each look.
    """

    code: int
    output: str
    seconds: float
    peaks: dict[str, Peak] = field(default_factory=dict)
    shm: float = 0.0
    total_pss: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    series: list[list[float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Numbers alone, rounded."""
        return {
            "seconds": round(self.seconds, 2),
            "peaks_mib": {
                group: {name: round(value, 1) for name, value in asdict(peak).items()}
                for group, peak in self.peaks.items()
            },
            "object_store_mib": round(self.shm, 1),
            "total_pss_mib": round(self.total_pss, 1),
            "cpu_s": {group: round(seconds, 1) for group, seconds in sorted(self.cpu.items())},
            "series": self.series,
        }


def watch(
    command: Sequence[str],
    env: Mapping[str, str],
    driver: str,
    every_s: float = 0.5,
    log: str | None = None,
) -> WatchedProcess:
    """Run a command to its end and look at it all along.

    Args:
        command: what is run.
        env: its environment.
        driver: words of the command line of the process that is the driver.
        every_s: seconds between two looks.
        log: file for its standard error.
    """
    seen = WatchedProcess(0, "", 0.0)
    started = time.monotonic()
    # Into a file: a pipe that nobody reads fills up and stops the command.
    with open(log or "/dev/null", "w") as errors:
        process = subprocess.Popen(
            list(command), env=dict(env), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        over = threading.Event()
        eye = threading.Thread(
            target=_look, args=(process.pid, seen, driver, every_s, over, started), daemon=True
        )
        eye.start()
        try:
            seen.output, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
        finally:
            over.set()
            eye.join()
    seen.code, seen.seconds = process.returncode, time.monotonic() - started
    return seen


def _look(
    pid: int,
    seen: WatchedProcess,
    driver: str,
    every_s: float,
    over: threading.Event,
    started: float,
) -> None:
    """Take looks at the tree below ``pid`` until it is over; who was seen once stays known, even
    when its parent ends before it."""
    known: dict[int, psutil.Process] = {pid: psutil.Process(pid)}
    spent: dict[int, tuple[str, float]] = {}
    before = psutil.disk_usage("/dev/shm").used
    while not over.wait(every_s):
        # Two rounds: children are found first, so that all processes are looked at in one moment.
        for process in [*known.values()]:
            try:
                known |= (
                    {child.pid: child for child in process.children(recursive=True)}
                    if process.pid == pid
                    else {}
                )
            except psutil.Error:
                continue
        groups: dict[str, list[tuple[float, float, float]]] = {}
        for process in [*known.values()]:
            try:
                with process.oneshot():
                    group = _group(process, pid, driver)
                    memory, times = process.memory_full_info(), process.cpu_times()
            except psutil.Error:
                known.pop(process.pid)
                continue
            groups.setdefault(group, []).append(
                (memory.rss / _MIB, memory.pss / _MIB, memory.uss / _MIB)
            )
            # The newest look replaces the one before: what a process had used when it was last seen
            # stays after its end.
            spent[process.pid] = group, times.user + times.system
        for group, sizes in groups.items():
            seen.peaks.setdefault(group, Peak()).add(sizes)
        total = sum(size[1] for sizes in groups.values() for size in sizes)
        seen.total_pss = max(seen.total_pss, total)
        seen.shm = max(seen.shm, (psutil.disk_usage("/dev/shm").used - before) / _MIB)
        biggest = [
            max((size[2] for size in groups.get(group, ())), default=0.0)
            for group in ("driver", "worker")
        ]
        seen.series.append(
            [round(value, 1) for value in (time.monotonic() - started, *biggest, total)]
        )
    for group, seconds in spent.values():
        seen.cpu[group] = seen.cpu.get(group, 0.0) + seconds


def _group(process: psutil.Process, pid: int, driver: str) -> str:
    """Part that a process plays.

    A worker of Ray names itself after what it runs; ``spawn_main`` and ``forkserver`` are of
    Python's own multiprocessing. The raylet is asked for first, since its command line holds that
    of its workers.
    """
    name, line = process.name(), " ".join(process.cmdline())
    if name.startswith("raylet") or "/raylet" in line.split(" ")[0]:
        return "raylet"
    if line.startswith("ray::") or re.search("default_worker|spawn_main|forkserver", line):
        return "worker"
    if driver in line and "ray/" not in line.split(" ")[0]:
        return "driver"
    if "boig_core.data.imaging.decoder" in line:
        return "decoder"
    return "command" if process.pid == pid else "other"
