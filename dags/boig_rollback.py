"""Makes the model before champion again.

### What starts it

A person alone. `boig rollback` does the same without Airflow.

### What it makes

**rollback** lets the aliases `champion` and `previous` change places in the MLflow registry. The
version that becomes champion keeps who triggered this, when and why. Run it again to take it back.

### When it fails

The last line of its log says why: MLflow does not answer, or there is no previous model. Clear the
task once the cause is gone. A rollback that was cut halfway is finished by the next one.

### Sample conf

```json
{
  "why": "Images of shoes have lost their laces since the last promotion."
}
```
"""

from airflow.sdk import DAG, Param

from boig_core.orchestration.planning.assets import DEFAULTS
from boig_core.orchestration.promotion.approval import rollback_task
from boig_core.orchestration.signals.callbacks import on_failure

with DAG(
    "boig_rollback",
    description="The model before is champion again.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "promote"],
    params={
        "why": Param(
            type="string",
            minLength=1,
            title="Why",
            description="Why the champion goes; kept in the registry.",
        )
    },
) as dag:
    rollback_task()
