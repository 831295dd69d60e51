"""Has a person decide whether a new model becomes champion, and keeps the decision.

### What starts it

The asset `boig/boigsd`, or a person. A run by hand takes the newest BoigSD and its report, unless
params name others.

### What it makes

A champion in the MLflow registry, where gates and a person agree:

* **plan** checks recipe and inputs;
* **gates** holds the report against the recipe's promotion limits; one that fails goes no further
  (skipped), the champion stays;
* **approval** waits for a person, under *Required Actions*: the form shows each gate with its value
  and limit, and one click opens the report with its images;
* **promote** registers the model in MLflow and moves the alias `champion`; the one before stays as
  `previous`.

Who decided what, when and why is kept as `decision.json` beside the run in the store.
`boig_rollback` takes a promotion back.

### When it fails

A gate that fails, or a rejection, is no failure: what follows is skipped. **approval** fails when
nobody answers within `promotion.max_days`: trigger a new run with the same `boigsd` and `report`.
When **promote** fails, clear it once MLflow answers again; a model is registered once only.

### Sample conf

```json
{
  "boigsd": "s3://boig/models/boigsd/VERSION",
  "report": "s3://boig/reports/VERSION"
}
```
"""

from airflow.sdk import DAG

from boig_core.orchestration.planning.assets import BOIGSD, DEFAULTS, plan
from boig_core.orchestration.planning.params import recipe_params, uri_param
from boig_core.orchestration.promotion.approval import Approval, gates_task, promote_task
from boig_core.orchestration.signals.callbacks import on_failure

with DAG(
    "boig_promote",
    description="Gates, a person's approval, and the registry's champion.",
    schedule=[BOIGSD],
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "promote"],
    params={
        "boigsd": uri_param("BoigSD", "the candidate, a BoigSD"),
        "report": uri_param("Report", "the candidate's report"),
        **recipe_params(None),
    },
) as dag:
    planned = plan({"boigsd": "sd", "report": "report"}, BOIGSD)
    gates = gates_task(planned)
    approval = Approval(
        task_id="approval",
        # Airflow asks for a subject as the file is parsed. The task sets its own.
        subject="Promote?",
        gates=gates,
        doc_md="Waits for a person, under Required Actions.",
    )
    promote_task(gates, approval.output)
