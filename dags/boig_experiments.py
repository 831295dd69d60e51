"""Runs one set of stages over variants of a recipe, and makes one page that compares them.

### What starts it

A person alone. Dataset, BoigLLM and calibration are those of the newest `boig/boigllm`, unless
params name others.

### What it makes

One page that holds the variants against each other. Each of the `variants` changes the recipe of
the alignment: another reward, algorithm, BoigLLM or seed.

* **ddpo** and **evaluate_sd** run for each variant, as many at once as the pool `boig_cluster` has
  slots;
* what variants share is made once: the high-KPI baseline (**finetune_sd**), a BoigLLM
  (**finetune_llm**) or a calibration of the reward (**calibrate**) that several of them need; and
  not at all where the store holds the same already;
* all are evaluated by the recipe itself: same prompts, noise, reward and judge;
* **compare** holds them against the first by paired differences, with their cost, on one page;
  variants that differ in `seed` alone stand together.

### When it fails

A variant that fails takes no other down: the page names it with its reason, and the run ends as
failed in **verdict**. To complete the page, clear the tasks that failed and those after them; a
variant whose settings were wrong needs a new run.

### Sample conf

```json
{
  "variants": [
    {"name": "plain", "overrides": []},
    {"name": "plain-1", "overrides": ["seed=1"]},
    {"name": "dsg", "overrides": ["reward.weights={dsg: 1}"]}
  ]
}
```
"""

from typing import Any

from airflow.sdk import DAG, task_group

from boig_core.orchestration.planning import experiment_results, experiments
from boig_core.orchestration.planning.assets import BOIGLLM, DEFAULTS
from boig_core.orchestration.planning.params import model_params, recipe_params
from boig_core.orchestration.signals.callbacks import on_failure
from boig_core.orchestration.signals.deadlines import deadline
from boig_core.orchestration.stage.operator import RayJobOperator

with DAG(
    "boig_experiments",
    description="Variants of the alignment, trained and evaluated side by side, and one comparison.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    deadline=deadline(),
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "train"],
    params={
        "variants": experiments.variants_param(),
        **model_params(),
        **recipe_params(None),
    },
) as dag:
    needs = {"dataset": "dataset", "boigllm": "boigllm", "calibration": "calibration"}
    planned = experiments.plan_experiment(
        needs, BOIGLLM, optional={"predictor": "predictor", "judge": "judge"}
    )
    baseline = RayJobOperator(
        task_id="finetune_sd",
        stage="finetune_sd",
        plan=planned,
        inputs={"dataset": planned},
        reuse=True,
    )
    finetune = RayJobOperator.partial(task_id="finetune_llm", stage="finetune_llm", reuse=True)
    trained = finetune.expand_kwargs(experiments.llm_trainings(planned))
    calibrate = RayJobOperator.partial(task_id="calibrate", stage="calibrate", reuse=True)
    calibrated = calibrate.expand_kwargs(experiments.calibrations(planned, trained))

    # Without a prefix: the results of a stage are looked up by its name as the task's id.
    @task_group(prefix_group_id=False)
    def variant(own: Any) -> None:
        """Aligns and evaluates one variant."""
        rewarded = {"dataset": own, "boigllm": own, "calibration": own, "predictor": own}
        ddpo = RayJobOperator(
            task_id="ddpo",
            stage="ddpo",
            plan=own,
            inputs=rewarded,
            map_index_template="{{ task.plan['name'] }}",
        )
        # From the run and not from the variant: what a variant changes must not measure it.
        yardstick = {
            "dataset": planned,
            "boigllm": planned,
            "calibration": planned,
            "predictor": planned,
            "judge": planned,
        }
        candidates = {**yardstick, "high_kpi": baseline.output, "boigsd": ddpo.output}
        RayJobOperator(task_id="evaluate_sd", stage="evaluate_sd", plan=planned, inputs=candidates)

    mapped = variant.expand(own=experiments.variants(planned, calibrated))
    collected = experiment_results.collect(planned, mapped)
    compared = RayJobOperator(
        task_id="compare", stage="compare", plan=planned, inputs=collected["inputs"]
    )
    experiment_results.verdict(planned, compared)
