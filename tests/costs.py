"""What each test file costs: CPU time of all processes that its tests start, and wall time.

A process that Ray or Airflow starts is no child that pytest reaps, so its CPU time appears in no
``times()`` of the test run. The kernel counts it all the same where the run has a control group
(cgroup v2) of its own: each process that runs tests moves into one, whatever it starts is born
there, and the group's ``cpu.stat`` is read around each test. Where no group can be made, wall time
alone is reported.

Wall seconds of two workers overlap; CPU seconds do not. A server that a fixture starts counts for
the test that runs while it works, and what a file's fixtures do at the end counts for its last
test. ``.pytest_cache/costs.json`` (or ``--costs FILE``) holds all files, and
``python -m tests.costs BEFORE AFTER`` makes the table of ``tests/README.md`` from two of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

COLLECTION = "(imports and collection)"
DEAREST = 10

Costs = dict[str, dict[str, float]]
"""By file: ``cpu_s``, ``wall_s``, ``tests``."""


class ControlGroup:
    """A control group below this process's own, which this process has moved into.

    Raises:
        OSError: there is no cgroup v2, or no right to make a group.
    """

    def __init__(self) -> None:
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        root = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
        if root is None:
            raise FileNotFoundError("no cgroup v2 is mounted")
        own = next(
            line[3:]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        self._outer = Path(root + own)
        self._folder = self._outer / f"boig-tests-{os.getpid()}"
        self._folder.mkdir()
        try:
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            self._folder.rmdir()
            raise

    def cpu_s(self) -> float:
        """CPU seconds, of user and system, that the group's processes have used, ended ones
        included."""
        fields = dict(line.split() for line in (self._folder / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def close(self) -> None:
        """Move what still runs back, and remove the group."""
        with suppress(OSError):
            for pid in (self._folder / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (self._outer / "cgroup.procs").write_text(pid)
            self._folder.rmdir()


class CostsOfTests:
    """Pytest plugin: measures in each process that runs tests, adds up and prints in the one that
    reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._runs_tests = hasattr(config, "workerinput") or not config.getoption(
            "numprocesses", None
        )
        self._group: ControlGroup | None = None
        if self._runs_tests:
            with suppress(OSError):
                self._group = ControlGroup()
        self._costs: Costs = {}
        self._last = (0.0, time.monotonic())

    def _charge(self, file: str, tests: int) -> None:
        """What was used since the last call goes to ``file``."""
        now = (self._group.cpu_s() if self._group else 0.0, time.monotonic())
        row = self._costs.setdefault(file, {"cpu_s": 0.0, "wall_s": 0.0, "tests": 0})
        row["cpu_s"] += now[0] - self._last[0]
        row["wall_s"] += now[1] - self._last[1]
        row["tests"] += tests
        self._last = now

    def pytest_collection_finish(self) -> None:
        if self._runs_tests:
            self._charge(COLLECTION, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        # A worker that waited for work has cost nothing.
        self._last = (
            self._last[0],
            time.monotonic(),
        )
        result = yield
        self._charge(item.nodeid.split("::", 1)[0], 1)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._group:
            self._group.close()
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["costs"] = self._costs

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended."""
        for file, cost in getattr(node, "workeroutput", {}).get("costs", {}).items():
            row = self._costs.setdefault(file, dict.fromkeys(cost, 0.0))
            for name, value in cost.items():
                row[name] += value

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._costs:
            return
        path = self._config.rootpath / self._config.getoption("costs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(sorted(self._costs.items())), indent=1) + "\n")
        dearest = sorted(
            self._costs,
            key=lambda file: -max(self._costs[file]["cpu_s"], self._costs[file]["wall_s"]),
        )
        if len(dearest) > DEAREST or os.environ.get("CI"):
            terminalreporter.section(f"the {DEAREST} dearest of {len(dearest)} files")
            terminalreporter.write_line(" CPU min  wall min  tests  file")
            for file in dearest[:DEAREST]:
                terminalreporter.write_line(_line(self._costs[file], file))
            terminalreporter.write_line(_line(total(self._costs), "all"))


def total(costs: Costs) -> dict[str, float]:
    return {name: sum(row[name] for row in costs.values()) for name in ("cpu_s", "wall_s", "tests")}


def _line(row: dict[str, float], file: str) -> str:
    return f"{row['cpu_s'] / 60:8.2f}  {row['wall_s'] / 60:8.2f}  {row['tests']:5.0f}  {file}"


def table(before: Costs, after: Costs, least_s: float = 20.0) -> str:
    """Markdown: CPU and wall minutes of each file before and after, the dearest first; small files
    in one row."""

    def cells(file: str) -> str:
        rows = [costs.get(file) for costs in (before, after)]
        return " | ".join(
            f"{row['cpu_s'] / 60:.1f} | {row['wall_s'] / 60:.1f}" if row else "– | –"
            for row in rows
        )

    def most(file: str) -> float:
        return max(
            row[name]
            for costs in (before, after)
            if (row := costs.get(file))
            for name in ("cpu_s", "wall_s")
        )

    files = sorted({*before, *after}, key=most, reverse=True)
    large = [file for file in files if most(file) >= least_s]
    small = [
        total({file: costs[file] for file in costs if file not in large})
        for costs in (before, after)
    ]
    sums = {f"{len(files) - len(large)} more": small, "**all**": [total(before), total(after)]}
    rows = ["| file | CPU min before | wall | CPU min now | wall |", "|---|---:|---:|---:|---:|"]
    rows += [f"| {file} | {cells(file)} |" for file in large]
    rows += [
        f"| {name} | "
        + " | ".join(f"{row['cpu_s'] / 60:.1f} | {row['wall_s'] / 60:.1f}" for row in pair)
        + " |"
        for name, pair in sums.items()
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3])))
