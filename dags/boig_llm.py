"""Trains BoigLLM, which learns from a dataset how a high-KPI image looks, and measures it.

### What starts it

The asset `boig/dataset`, or a person. A run by hand takes the newest dataset and its recipe, unless
params name others.

### What it makes

BoigLLM with its evaluation and its reward calibration, and the asset `boig/boigllm`:

* **plan** checks recipe and inputs;
* **finetune_llm** trains BoigLLM on the dataset (behavior fine-tuning) and, beside it, a twin that
  does not see the KPI; where the recipe says so, an engagement predictor too, and a second one that
  judges;
* **evaluate_llm** compares their descriptions of test images with what is really seen in them;
* **calibrate** asks how well each formulation of the reward tells high from low on held-out real
  images, recommends one, and fixes the range of the one that the recipe names;
* **announce** emits `boig/boigllm`, which starts `boig_sd`.

A stage that runs on Ray is shown as *deferred*. Its log is the task's log; the buttons under
*Details* lead to its job and its curves.

### When it fails

A wrong input fails at once, anything else after three more tries; the last line of the task's log
names the cause and the remedy. Clear the task once the cause is gone: a training begins anew, or
goes on from its checkpoint if you run `boig resume RUN TASK` before. Where the recipe was wrong,
trigger a new run with other `overrides`.

### Sample conf

```json
{
  "dataset": "s3://boig/datasets/acme/VERSION",
  "recipe": "tiny",
  "overrides": ["data.name=acme", "llm.steps=2000"]
}
```
"""

from airflow.sdk import DAG

from boig_core.orchestration.planning.assets import (
    BOIGLLM,
    DATASET,
    DEFAULTS,
    announce,
    plan,
)
from boig_core.orchestration.planning.params import recipe_params, uri_param
from boig_core.orchestration.signals.callbacks import on_failure
from boig_core.orchestration.signals.deadlines import deadline
from boig_core.orchestration.stage.operator import RayJobOperator

with DAG(
    "boig_llm",
    description="BoigLLM learns from the dataset how a high-KPI image looks.",
    schedule=[DATASET],
    catchup=False,
    max_active_runs=1,
    deadline=deadline(),
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "train"],
    params={"dataset": uri_param("Dataset", "a perceived dataset"), **recipe_params(None)},
) as dag:
    planned = plan({"dataset": "dataset"}, DATASET)
    finetune = RayJobOperator(
        task_id="finetune_llm", stage="finetune_llm", plan=planned, inputs={"dataset": planned}
    )
    trained = {"dataset": planned, "boigllm": finetune.output}
    # Only some recipes train a predictor. Where the training has no such output, the input is left
    # out.
    rated = {**trained, "predictor": finetune.output}
    evaluate = RayJobOperator(
        task_id="evaluate_llm",
        stage="evaluate_llm",
        plan=planned,
        inputs={**trained, "no_kpi": finetune.output},
    )
    calibrate = RayJobOperator(task_id="calibrate", stage="calibrate", plan=planned, inputs=rated)
    announce(BOIGLLM, "boigllm", planned, [finetune.output, evaluate.output, calibrate.output])
