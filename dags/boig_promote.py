"""Has a person decide whether a new model becomes champion, and keeps the decision.

### What starts it

The asset `boig/boigsd`, or a person. A run by hand takes the newest BoigSD and its report, unless
params name others.

### What it makes

A champion in the MLflow registry, where gates and a person agree:

* **plan** verifies candidate and report, manifest by manifest, back to the posts; all of it must
  lie in the store;
* **gates** holds the report against the gates of the candidate's own recipe, raised to the floors
  of the policy; one that fails goes no further (skipped), the champion stays;
* **approval** waits for a person, under *Required Actions*: the form shows each gate with its value
  and limit, those that are loosened or not asked as well, and one click opens the report with its
  images;
* **promote** checks gates and decision once more, registers the model in MLflow and moves the alias
  `champion`; the one before stays as `previous`.

The approvers that the policy names may answer, but for those who triggered a run that the candidate
comes from. Who decided what, when and why is kept as `decision.json` beside the run in the store.
`boig_rollback` takes a promotion back.

### When it fails

A gate that fails, or a rejection, is no failure: what follows is skipped. **approval** fails when
nobody answers within `promotion.max_days`, and at once when nobody may: have the operator name
another approver in the policy, then clear it. A task that was marked as success stands for nothing:
**promote** fails without a decision of its own run. When **promote** fails, clear it once MLflow
answers again; a model is registered once only, and a decision carried out once.

### Sample conf

```json
{
  "boigsd": "s3://boig/models/boigsd/VERSION",
  "report": "s3://boig/reports/VERSION"
}
```
"""

from airflow.sdk import DAG

from boig_core.orchestration.planning.assets import BOIGSD, DEFAULTS
from boig_core.orchestration.planning.params import dry_run_param, uri_param
from boig_core.orchestration.planning.promotion import plan_promotion
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
    # No recipe and no overrides: whoever starts a promotion must not decide what it asks.
    params={
        "boigsd": uri_param("BoigSD", "the candidate, a BoigSD"),
        "report": uri_param("Report", "the candidate's report"),
        "dry_run": dry_run_param(),
    },
) as dag:
    approval = Approval(
        task_id="approval",
        # Airflow asks for a subject as the file is parsed. The task sets its own.
        subject="Promote?",
        doc_md="Waits for a person, under Required Actions.",
    )
    plan_promotion(BOIGSD) >> gates_task() >> approval >> promote_task()
