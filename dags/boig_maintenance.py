"""Keeps the store to what is needed.

### What starts it

The schedule, every Sunday, which only lists; or a person, who may set `apply`, as the sample below
does. The same from a terminal: `boig clean`.

### What it makes

**clean** lists what no manifest, promoted model or recent run refers to: outputs that came to
nothing, shards of datasets that are gone, checkpoints of stages that have long been done. With
`apply` it moves them to `.trash/` in the store, and removes what has been there for a week. What
promoted models were made from stays, the newest output of each kind stays, and so does everything
that runs of the last `days` read or wrote. Files that are not boig's stay, too, and are counted.

### When it fails

The last line of its log names the cause and the remedy: MLflow's registry must answer, and its
promoted models must lie in this store. Clear the task once that is so. A clean-up that was cut off
may be run again at any time.

### Sample conf

```json
{
  "days": 60,
  "apply": true
}
```
"""

from airflow.sdk import DAG, Param

from boig_core.orchestration.planning.assets import DEFAULTS
from boig_core.orchestration.planning.maintenance import clean_task
from boig_core.orchestration.signals.callbacks import on_failure

with DAG(
    "boig_maintenance",
    description="Lists, or moves to the trash, what nothing in the store refers to.",
    schedule="@weekly",
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "maintenance"],
    params={
        "days": Param(
            30,
            type="number",
            minimum=1,
            title="Days",
            description="What is younger stays, and runs of these days are live.",
        ),
        "apply": Param(
            False,
            type="boolean",
            title="Move to the trash",
            description="Move what was found to the store's trash; else it is only listed.",
        ),
    },
) as dag:
    clean_task()
