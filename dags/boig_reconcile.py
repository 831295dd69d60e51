"""Stops jobs on the Ray cluster whose task is over, so that none runs on for nobody.

### What starts it

The schedule, every five minutes. It is not paused when Airflow first sees it.

### What it makes

**reconcile** looks at the jobs on the Ray cluster that belong to this Airflow and its store, and
stops those whose task is over: marked as failed or as success, cleared and not yet run again, or
deleted with its run. Usually the triggerer has done so at once; this DAG is for when it was down at
that moment, or could not tell. A job whose task still runs, waits or is about to be retried goes
on; so does one that nothing can be said about.

### When it fails

The last line of its log says why: the cluster does not answer, or names the jobs that did not stop.
Stop those by hand, on Ray's dashboard. Nothing needs to be cleared, since the next run looks again.

### Sample conf

It takes no params.
"""

from airflow.sdk import DAG, task

from boig_core.orchestration.planning.assets import DEFAULTS
from boig_core.orchestration.signals.callbacks import on_failure

with DAG(
    "boig_reconcile",
    description="Stops Ray jobs whose task is over.",
    schedule="*/5 * * * *",
    catchup=False,
    max_active_runs=1,
    # Airflow pauses a new DAG by default, and jobs that a kill has missed would run on.
    is_paused_upon_creation=False,
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "maintenance"],
) as dag:

    @task(doc_md="Stops jobs whose task is over; returns what it has seen and done.")
    def reconcile() -> dict[str, object]:
        """What is stopped, and why."""
        # Here and not above: Airflow parses the file again and again, the task needs them.
        from boig_core.orchestration.jobs import clusters
        from boig_core.orchestration.roots import store_root
        from boig_core.orchestration.stage.reconcile import reconcile as stop_unwanted

        return stop_unwanted(clusters.find(), store_root())

    reconcile()
