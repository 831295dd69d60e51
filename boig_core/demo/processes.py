"""Child processes of the demo, with their own logs on free ports, stopped whole.

Each server leads a session of its own, and its process id and start time are written down before it
is used: so an earlier demo that was killed can be cleaned up, and nobody else's process is ever
touched. Leaves out: which servers there are (see `services`).
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from boig_core.errors import InfrastructureError, InputError

SPARE_PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: such a one could take a port between
its choice and the server's start."""
STOP_S = 5.0
"""Seconds that a server is given to end with all its children."""


@dataclass
class Ports:
    """Ports of one demo, chosen once, all free at that moment and all different."""

    airflow: int = 0
    ray: int = 0
    dashboard: int = 0
    mlflow: int = 0
    spare: list[int] = field(default_factory=list)


def choose_ports() -> Ports:
    """The usual ports where they are free, others where they are taken."""
    spare = free_ports()
    airflow, ray, dashboard, mlflow = (
        port if is_free(port) else next(spare) for port in (8080, 6379, 8265, 5000)
    )
    return Ports(airflow, ray, dashboard, mlflow, list(itertools.islice(spare, 7)))


def free_ports(among: Sequence[int] = SPARE_PORTS) -> Iterator[int]:
    """Ports that nothing listens on, each once, from a random one on.

    Raises:
        InfrastructureError: there are no more.
    """
    # At random, so that two demos that begin together seldom choose the same.
    first = random.randrange(len(among))
    yield from filter(is_free, itertools.chain(among[first:], among[:first]))
    raise InfrastructureError(
        f"ports {among[0]} to {among[-1]}", "are all taken", "stop what listens on them"
    )


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        # As servers do: a port of a server that has just ended counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    # 0 stands for any port, so it can always be bound.
    return port != 0


class Services:
    """Starts, watches and stops child processes.

    Args:
        home: folder of the demo (``.boig``); logs go to ``home/logs``, process ids to
            ``home/pids.json``.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}
        self._pids = home / "pids.json"
        (home / "logs").mkdir(parents=True, exist_ok=True)

    def start(self, name: str, argv: list[str], env: dict[str, str]) -> None:
        """Start a server in a session of its own."""
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            self._log_starts[name] = log.tell()
            # In a session of its own: Ctrl-C in the terminal reaches the demo alone, which stops
            # its servers in order, and by the session children are found whose parent is gone.
            process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=repository(),
            )
        self._running[name] = process
        entries = {key: [p.pid, _started(p.pid)] for key, p in self._running.items()}
        self._pids.write_text(json.dumps(entries))

    def wait_until(self, name: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Wait for a server to answer.

        Raises:
            InfrastructureError: it ended or did not answer in time; with the last lines of its log.
        """
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.check()
            if ready():
                return
            time.sleep(0.5)
        raise InfrastructureError(
            name, f"did not answer within {limit_s:.0f} s", f"its log ends with: {self.tail(name)}"
        )

    def check(self) -> None:
        """Raises InfrastructureError when a server has ended on its own."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise InfrastructureError(
                    name,
                    f"ended with exit code {process.returncode}",
                    f"its log ends with: {self.tail(name)}",
                )

    def tail(self, name: str, lines: int = 12) -> str:
        """Last lines of a server's log since its newest start: an earlier one said that it was
        ready, too."""
        path = self.home / "logs" / f"{name}.log"
        log = path.read_bytes()[self._log_starts.get(name, 0) :] if path.exists() else b""
        return "\n".join(["", *log.decode(errors="replace").splitlines()[-lines:]])

    def stop(self, name: str) -> None:
        """Stop a server with all its descendants."""
        process = self._running.pop(name)
        stop_tree(process.pid)
        process.wait()

    def stop_all(self) -> None:
        """Stop every server, all at once: each takes seconds to end its own children in order."""
        # After `leave` the file stays: by it the servers are found and stopped later.
        if self._running:
            with ThreadPoolExecutor(len(self._running)) as pool:
                list(pool.map(self.stop, list(self._running)))
            self._pids.unlink(missing_ok=True)

    def leave(self) -> None:
        """Let the servers run on; `clean_up` of a later demo stops them."""
        self._running.clear()


def clean_up(home: Path) -> int:
    """Stop what an earlier demo of this folder has left behind; returns the number of servers
    stopped."""
    path = home / "pids.json"
    try:
        entries = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        # No demo was here, or it was killed while it wrote the file.
        return 0
    left = []
    for pid, started in entries.values():
        now = _started(pid)
        if now == started or (
            now is None and _session(pid)
        ):  # the leader itself, or what it left in its session
            left.append(pid)
    if left:
        with ThreadPoolExecutor(len(left)) as pool:
            list(pool.map(stop_tree, left))
    path.unlink(missing_ok=True)
    return len(left)


def stop_tree(leader: int) -> None:
    """End a session leader, its session and their descendants: SIGTERM to the leader, then to all
    that is left, then SIGKILL."""
    family = _family(leader)
    heads = [process for process in family if process.pid == leader]
    # The leader alone at first: a server such as Ray then ends its own children in order.
    _signal(heads, signal.SIGTERM)
    psutil.wait_procs(heads, timeout=STOP_S)
    # What has started meanwhile. Those found before stay: without their parent, children in
    # sessions of their own could no longer be found.
    family |= _family(leader)
    _signal(family, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=5)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _family(leader: int) -> set[psutil.Process]:
    members = set(_session(leader))
    with suppress(psutil.NoSuchProcess):
        members.add(psutil.Process(leader))
    for process in list(members):
        try:
            members.update(process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return members


def _session(leader: int) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                processes.append(process)
        except (ProcessLookupError, PermissionError):
            # It has ended during the look, or may not be asked: it is none of ours.
            continue
    return processes


def _signal(processes: Iterable[psutil.Process], how: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(how)
        except psutil.NoSuchProcess:
            continue


def _started(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        # A zombie has ended: its parent has only not asked for its exit code yet.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def repository() -> Path:
    """Folder that holds ``dags/`` and ``ray_jobs/``.

    Raises:
        InputError: boig is installed without its repository.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "dags").is_dir():
        raise InputError(
            root / "dags", "does not exist", "run the demo from a clone of the repository"
        )
    return root
