"""``boig demo``: servers up, an ad world written, the four DAGs followed, the result shown, servers
down.

Leaves out: the stages. Everything lies under one folder, ``.boig``; only the store may be elsewhere
(``BOIG_STORE``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import Progress

from boig_core import environment
from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.config import Promotion, is_recipe_file, load_recipe, read_policy
from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.ending import print_servers, show_next, show_results, show_servers, shown
from boig_core.demo.follow import StageFailedError, follow
from boig_core.demo.processes import Ports, Services, choose_ports, clean_up
from boig_core.demo.services import (
    APPROVER,
    READY_S,
    TRAINER,
    answers,
    server_environment,
    start_airflow,
    start_mlflow,
    start_ray,
)
from boig_core.demo.view import CHAIN, View
from boig_core.escapes import visible
from boig_core.orchestration.stage import attempts
from boig_core.storage import commit, marker, store

POOL = "boig_cluster"


@dataclass(frozen=True)
class DemoSettings:
    """What a demo is asked for.

    Attributes:
        home: folder for everything it makes.
        recipe: name or path.
        overrides: ``section.field=value`` settings.
        posts: posts of the ad world.
        law: its KPI law, by name or path.
        seed: of the world and of the recipe.
        keep: leave the servers up.
        minutes: longest time that the DAGs are followed.
    """

    home: Path
    recipe: str = "tiny"
    overrides: tuple[str, ...] = ()
    posts: int = 4000
    law: str = "sunlit"
    seed: int = 0
    keep: bool = False
    minutes: float = 60.0


def _absolute(settings: DemoSettings) -> tuple[str, str]:
    """Law and recipe as the servers find them, which run in the repository's folder."""
    law, recipe = settings.law, settings.recipe
    return (
        law if "/" not in law else os.path.abspath(law),
        os.path.abspath(recipe) if is_recipe_file(recipe) else recipe,
    )


def run_demo(settings: DemoSettings, console: Console) -> int:
    """Run the whole demo; returns the exit code: 0, 1 for a failed stage or server, 2 for a wrong
    input."""
    law, named = _absolute(settings)
    overrides = [f"seed={settings.seed}", f"evaluation.judge=adworld:{law}", *settings.overrides]
    # A wrong recipe or law ends here, before anything starts.
    recipe, rules = load_recipe(named, overrides), Law.load(law)
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    root = store.normalize(environment.STORE.read() or str(home / "store"))
    marker.ensure(root)
    if stopped := clean_up(home):
        console.print(f"Stopped {stopped} servers that an earlier demo had left behind.")
    for folder in (
        "logs",
        "ray",
        "world",
        "mlflow",
    ):  # the champion of another world is no measure for this one's model
        shutil.rmtree(home / folder, ignore_errors=True)
    ports = choose_ports()
    services = Services(home)
    env = server_environment(home, root, ports)
    read_policy(Path(env[environment.POLICY.name])).require(recipe, root)
    try:
        with _stoppable():
            passwords = _start(services, env, ports, console)
            _write_world(settings, rules, home / "world", console)
            api, approver = _wait(services, ports, passwords, console)
            run = api.trigger(
                "boig_ingest",
                {"posts": str(home / "world"), "recipe": named, "overrides": overrides},
            )
            started = time.monotonic()
            with View(console) as view:
                runs = follow(api, approver, view, root, run, services.check, settings.minutes * 60)
            console.print(
                f"\nFrom posts to a decision in {(time.monotonic() - started) / 60:.1f} minutes.",
                highlight=False,
            )
            promoted = _show(console, home, root, runs, api, recipe.promotion)
        show_next(console, home, root, settings.law, settings.keep, promoted)
        if settings.keep:
            services.leave()
            show_servers(console, ports, passwords)
        return 0
    except StageFailedError as exc:
        log = map(visible, exc.log)
        console.print(*log, sep="\n", markup=False, highlight=False, soft_wrap=True)
        console.print(f"boig demo: {exc}", markup=False, highlight=False, soft_wrap=True)
        if settings.keep:
            services.leave()
            show_servers(console, ports, passwords)
        return 2 if exc.user else 1
    except KeyboardInterrupt:
        console.print("\nboig demo: interrupted; stopping what it started")
        return 130
    finally:
        with _undisturbed():
            services.stop_all()


def _start(
    services: Services, env: dict[str, str], ports: Ports, console: Console
) -> dict[str, str]:
    with console.status("Starting Ray …"):
        start_ray(services, env, ports)
    # Not waited for yet: these two come up while the ad world is written.
    passwords = start_airflow(services, env)
    start_mlflow(services, env, ports)
    return passwords


def _wait(
    services: Services, ports: Ports, passwords: dict[str, str], console: Console
) -> tuple[AirflowApi, AirflowApi]:
    base = f"http://127.0.0.1:{ports.airflow}"
    api, approver = (AirflowApi(base, user, passwords[user]) for user in (TRAINER, APPROVER))
    with console.status("Waiting for Airflow and MLflow …"):
        services.wait_until(
            "mlflow", lambda: answers(f"http://127.0.0.1:{ports.mlflow}/health"), READY_S
        )
        services.wait_until("airflow", lambda: api.login() and approver.login(), READY_S)
        # Airflow answers before it has parsed the DAG files, and runs no DAG that it does not know.
        services.wait_until("airflow", lambda: api.has_dags(list(CHAIN)), READY_S)
        api.create_pool(POOL, 2)  # two stages side by side: one often waits, or starts processes
    console.print("While it runs:", highlight=False)
    print_servers(console, ports, passwords)
    console.print()
    return api, approver


def _write_world(settings: DemoSettings, law: Law, out: Path, console: Console) -> None:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(
            f"Writing an ad world of {settings.posts} posts", total=settings.posts
        )
        write_world(
            settings.posts,
            settings.seed,
            law,
            out,
            progress=lambda done, _: progress.update(bar, completed=done),
        )
    console.print(
        f"Ad world: {settings.posts} posts under law {settings.law} in {shown(out)}",
        highlight=False,
        soft_wrap=True,
    )


def _show(
    console: Console,
    home: Path,
    root: str,
    runs: dict[str, str],
    api: AirflowApi,
    promotion: Promotion,
) -> bool:
    """Print the results; returns whether the model was promoted."""
    uri = attempts.task_uri(root, "boig_sd", runs["boig_sd"], "report")
    done = commit.read_commit(commit.attempt_uri(uri, commit.attempts(uri)[-1])) or {}
    folder = done["outputs"]["report"]
    for name in ("report.json", "report.html"):
        store.download_file(store.join(folder, name), home / name)
    gates = api.xcom("boig_promote", runs["boig_promote"], "gates") or {}
    promoted = api.xcom("boig_promote", runs["boig_promote"], "promote")
    show_results(
        console,
        json.loads((home / "report.json").read_text()),
        promotion,
        gates.get("gates", []),
        promoted,
    )
    return bool(promoted)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = [
        (number, signal.signal(number, interrupt))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Stopping is not interrupted by a second Ctrl-C."""
    before = [
        (number, signal.signal(number, signal.SIG_IGN))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
