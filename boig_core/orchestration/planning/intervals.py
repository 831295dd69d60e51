"""Runs of ``boig_ingest`` one after another: each waits for its turn, and on a schedule adds its
interval's posts to the newest version.

Airflow's limits do not do: a backfill has one of its own, ten runs at once, beside that of the DAG.
So a run takes a numbered turn by an exclusive put, when the run that has the last one runs no more,
and no run of an earlier interval does. A run that lost its turn meanwhile, since one task alone was
cleared, announces nothing: what it built on is no longer the newest.

The newest version and the time of its newest post (the watermark) are kept in the state store of
the asset; where that was lost, they are found in the dataset's manifests. Leaves out: what is read
and whether it is new (see `data.ingestion`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from airflow.sdk import Asset, PokeReturnValue, task

from boig_core.errors import InputError, UserError
from boig_core.observability.logs import get_logger
from boig_core.orchestration.stage.attempts import run_folder
from boig_core.storage import control, manifest, store, withdrawn
from boig_core.storage.job import read_recipe
from boig_core.storage.period import Period, write_period

log = get_logger(__name__)

LOOK_S: Final = 15.0
"""Seconds between two looks whether the turn has come."""
ON_SCHEDULE: Final = frozenset({"scheduled", "backfill"})
"""Types of runs that cover an interval; one by hand takes what it is told to take."""


@dataclass(frozen=True)
class Newest:
    """A version of a dataset.

    Attributes:
        dataset: its URI.
        watermark: time of its newest post; None: not known, since it was made before that was kept.
    """

    dataset: str
    watermark: datetime | None


@dataclass(frozen=True)
class Turn:
    """Content of a turn's file: ``run`` has it."""

    run: str


def take_turn(asset: Asset, plan_result: Any) -> Any:
    """The task that waits for the run's turn, and then finds out what its interval adds to.

    Returns:
        XCom of ``{"outputs": {"previous": URI, "period": URI}, "turn": [N, RUN], "turns": URI}``;
        outputs hold what there is.
    """

    # Rescheduled between two looks: runs of a backfill may wait for long, and hold no worker then.
    @task.sensor(
        task_id="turn",
        inlets=[asset],
        mode="reschedule",
        poke_interval=LOOK_S,
        doc_md="Waits until no other run is at work.",
    )
    def turn(made_by: dict[str, Any], **context: Any) -> PokeReturnValue:
        ti, run = context["ti"], context["dag_run"]
        turns = store.join(made_by["store"], "runs", ti.dag_id, "turns")
        number = claim(
            turns,
            ti.run_id,
            lambda other: _runs(ti.dag_id, other),
            lambda: ti.get_previous_dagrun(state="running") is not None,
        )
        if number is None:
            return PokeReturnValue(is_done=False)
        sources = {
            name: uri for name, uri in made_by["outputs"].items() if name in ("previous", "retry")
        }
        outputs = {"previous": sources["previous"]} if "previous" in sources else {}
        if not sources and str(getattr(run.run_type, "value", run.run_type)) in ON_SCHEDULE:
            folder = store.join(made_by["store"], "runs", ti.dag_id, run_folder(ti.run_id))
            outputs = of_interval(
                context["asset_state_store"][asset],
                made_by,
                run.data_interval_start,
                run.data_interval_end,
                folder,
            )
        return PokeReturnValue(
            is_done=True,
            xcom_value={"outputs": outputs, "turn": [number, ti.run_id], "turns": turns},
        )

    return turn(plan_result)


def claim(
    turns: str, run: str, is_running: Callable[[str], bool], is_preceded: Callable[[], bool]
) -> int | None:
    """Take the next turn if it is this run's; None: it is not.

    Args:
        turns: folder of the turns, ``000001.json`` and on.
        run: who asks; whoever has the last turn keeps it.
        is_running: whether another run still runs. One that waits in the queue does not: it may
            wait for this one.
        is_preceded: whether a run of an earlier interval still runs.
    """
    last, holder = last_turn(turns)
    if holder == run:
        return last
    if (holder is not None and is_running(holder)) or is_preceded():
        log.info(
            "waiting: %s has the turn",
            holder if holder is not None and is_running(holder) else "a run of an earlier interval",
        )
        return None
    body = json.dumps({"run": run}).encode()
    # Of runs that ask at once, one alone gets this number. The others look again.
    return last + 1 if store.put_if_absent(store.join(turns, f"{last + 1:06}.json"), body) else None


def last_turn(turns: str) -> tuple[int, str | None]:
    """Number of the last turn and the run that has it; 0 and None before the first."""
    names = [
        name for name, _ in store.list_files(turns) if re.fullmatch(r"[0-9]{6,12}\.json", name)
    ]
    if not names:
        return 0, None
    # Numbers are padded, so the last name is that of the last turn.
    newest = max(names)
    turn = control.read(store.join(turns, newest), Turn, "a turn", "remove it")
    return int(newest.removesuffix(".json")), turn.run


def of_interval(
    state: Any, made_by: Mapping[str, Any], start: datetime, end: datetime, folder: str
) -> dict[str, str]:
    """What a run of a schedule reads: the newest version, if there is one, and the file of its
    period.

    Args:
        state: the asset's state store.
        made_by: result of the DAG's plan.
        start: of the run's interval.
        end: of the run's interval.
        folder: of the run in the store.
    """
    data = read_recipe(made_by["recipe"]).data
    newest = find_newest(state, made_by["store"], data.name)
    period = period_after(newest, start, end, data.late_days)
    log.info(
        "posts of %s are added to %s",
        period,
        "nothing: this is the first version" if newest is None else newest,
    )
    inputs = {"period": write_period(store.join(folder, "period.json"), period)}
    return inputs if newest is None else {**inputs, "previous": newest.dataset}


def period_after(newest: Newest | None, start: datetime, end: datetime, late_days: float) -> Period:
    """From the watermark or the interval's start, the earlier one, less what posts may be late;
    without a version all before the end."""
    if newest is None:
        return Period(since=None, until=end)
    # After days without a run the watermark lies before the interval; where an old interval is run
    # again, the start lies before the watermark. Neither may leave a gap.
    since = start if newest.watermark is None else min(start, newest.watermark)
    return Period(since=since - timedelta(days=late_days), until=end)


def find_newest(state: Any, root: str, name: str) -> Newest | None:
    """The newest version that was announced, by the asset's state, or else by the manifests in the
    store.

    Args:
        state: the asset's state store.
        root: of the store.
        name: of the dataset.
    """
    kept, family = state.get(_key(name)), store.join(root, "datasets", name)
    if kept is not None:
        try:
            # By its name alone: the store may have been copied since.
            return _newest_of(store.join(family, store.name(kept["dataset"])))
        except UserError as exc:
            log.warning("the newest version that Airflow knows of cannot be read: %s", exc)
    # Airflow's state is lost, or names what can no longer be read: the manifests tell as much.
    versions = sorted(
        (file.modified, file.path)
        for file in store.list_with_times(family)
        if file.path.count("/") == 1
    )
    for uri in (
        store.join(family, path.split("/")[0])
        for _, path in reversed(versions)
        if path.endswith(f"/{manifest.MANIFEST}")
    ):
        try:
            if is_of_dag(manifest.read_record(uri, kind="dataset")):
                log.info(
                    "Airflow knows of no version of %s; the newest of the store is %s", name, uri
                )
                return _newest_of(uri)
        except UserError as exc:
            log.warning("passed over: %s", exc)
    return None


def is_of_dag(version: manifest.Manifest) -> bool:
    """Whether the DAG has made a version, to its end: a version that was made by hand is nobody's
    newest."""
    return "/runs/boig_ingest/" in version.commit and bool(version.meta.get("perceived"))


def keep_newest(state: Any, taken: Mapping[str, Any], dataset: str) -> None:
    """Keep a version as the newest, if the run that made it still has the turn.

    Args:
        state: the asset's state store.
        taken: result of the run's turn.
        dataset: URI of the version.

    Raises:
        InputError: other runs have had their turns since.
    """
    # Checked as the run ends: where a single task was cleared, it has built on an old version,
    # which as the newest would hide what came in between.
    last = last_turn(taken["turns"])
    if last != tuple(taken["turn"]):
        rule = f"is over: {last[1]} came next, and this version does not hold what that has made"
        remedy = "clear the run from its task turn on: then it adds to the newest version"
        raise InputError(f"turn {taken['turn'][0]} of this run", rule, remedy)
    newest = _version(dataset)
    watermark = None if newest.watermark is None else newest.watermark.isoformat()
    state.set(
        _key(store.name(dataset.rsplit("/", 1)[0])), {"dataset": dataset, "watermark": watermark}
    )
    log.info("the newest version is %s, its newest post of %s", dataset, watermark)


def _newest_of(dataset: str) -> Newest | None:
    """A version, or what has taken its place since a post of it was forgotten; None: every post of
    it was."""
    current = withdrawn.successor_of(dataset)
    return None if current is None else _version(current)


def _version(dataset: str) -> Newest:
    newest = manifest.read_manifest(dataset, kind="dataset").meta.get("newest")
    return Newest(dataset, None if newest is None else datetime.fromisoformat(newest))


def _key(name: str) -> str:
    return f"newest-{name}"


def _runs(dag: str, run: str) -> bool:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    # A run that was deleted counts 0, so nobody waits for it.
    return bool(RuntimeTaskInstance.get_dr_count(dag_id=dag, run_ids=[run], states=["running"]))
