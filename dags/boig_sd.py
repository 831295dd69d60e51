"""Aligns the image generator with the KPI, compares it with its baselines, and reports the result.

### What starts it

The asset `boig/boigllm`, or a person. A run by hand takes what the newest `boig/boigllm` names
(dataset, BoigLLM, calibration, recipe), unless params name others.

### What it makes

BoigSD with its evaluation and a report, and the asset `boig/boigsd`:

* **plan** checks recipe and inputs;
* **finetune_sd** fine-tunes the diffusion model on high-KPI images alone (the baseline to beat);
* **ddpo** aligns it with BoigLLM's reward, if that reward tells high from low on test images with
  confidence;
* **evaluate_sd** compares base, baseline, BoigSD and the registry's champion, if there is one, on
  the same prompts and seeds;
* **timings** notes how long the stages took, **report** puts everything on one page;
* **announce** emits `boig/boigsd`, which starts `boig_promote`.

A stage that runs on Ray is shown as *deferred*. Its log is the task's log; the buttons under
*Details* lead to its job, its curves and the report.

### When it fails

A wrong input fails at once, anything else after three more tries; the last line of the task's log
names the cause and the remedy. Clear the task once the cause is gone: a training begins anew, or
goes on from its checkpoint if you run `boig resume RUN TASK` before. Where **ddpo** refuses the
reward, ingest more posts, or run `boig_llm` with a longer training or another reward.

### Sample conf

```json
{
  "overrides": ["ddpo.epochs=10", "ddpo.lr=0.001"]
}
```
"""

from airflow.sdk import DAG

from boig_core.orchestration.planning.assets import (
    BOIGLLM,
    BOIGSD,
    DEFAULTS,
    announce,
    plan,
    timings,
)
from boig_core.orchestration.planning.params import model_params, recipe_params, uri_param
from boig_core.orchestration.signals.callbacks import on_failure
from boig_core.orchestration.signals.deadlines import deadline
from boig_core.orchestration.stage.operator import RayJobOperator

with DAG(
    "boig_sd",
    description="The image generator is aligned with BoigLLM's reward, evaluated and reported.",
    schedule=[BOIGLLM],
    catchup=False,
    max_active_runs=1,
    deadline=deadline(),
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "train"],
    params={
        **model_params(),
        "description": uri_param("BoigLLM's evaluation", "the BoigLLM's evaluation"),
        **recipe_params(None),
    },
) as dag:
    needs = {
        "dataset": "dataset",
        "boigllm": "boigllm",
        "calibration": "calibration",
        "description": "description",
    }
    # The champion is looked up before a GPU is taken: over one that cannot be read no candidate
    # could be promoted.
    planned = plan(
        needs,
        BOIGLLM,
        optional={"predictor": "predictor", "judge": "judge", "champion": "sd"},
        beside_champion=True,
    )
    finetune = RayJobOperator(
        task_id="finetune_sd", stage="finetune_sd", plan=planned, inputs={"dataset": planned}
    )
    rewarded = {
        "dataset": planned,
        "boigllm": planned,
        "calibration": planned,
        "predictor": planned,
    }
    ddpo = RayJobOperator(task_id="ddpo", stage="ddpo", plan=planned, inputs=rewarded)
    # The judge comes in only here: what trains and chooses never gets it.
    candidates = {
        **rewarded,
        "high_kpi": finetune.output,
        "boigsd": ddpo.output,
        "judge": planned,
        "champion": planned,
    }
    evaluate = RayJobOperator(
        task_id="evaluate_sd", stage="evaluate_sd", plan=planned, inputs=candidates
    )
    stages = [finetune.output, ddpo.output, evaluate.output]
    evidence = {
        "dataset": planned,
        "description": planned,
        "calibration": planned,
        "generation": evaluate.output,
    }
    report = RayJobOperator(
        task_id="report",
        stage="report",
        plan=planned,
        inputs={**evidence, "runs": timings(planned, stages)},
    )
    announce(BOIGSD, "boigsd", planned, [*stages, report.output])
