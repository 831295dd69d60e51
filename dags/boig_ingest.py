"""# boig_ingest: posts become a dataset

Takes a brand's posting history (`posts`: a posts.jsonl with images beside it, over http or in S3), and makes a dataset that the models
learn from: **ingest** validates and filters posts, fetches and de-duplicates images, puts each post into a KPI bucket of its account and
into a split; **perceive** looks at each image: colors, tones, objects.

Emits the asset `boig/dataset`, which starts `boig_llm`. Nothing else needs to be given than `posts`.
"""

from airflow.sdk import DAG, Param

from boig_core.orchestration.assets import DATASET, DEFAULTS, announce, plan, recipe_params
from boig_core.orchestration.callbacks import on_failure
from boig_core.orchestration.operator import RayJobOperator

with DAG(
    "boig_ingest",
    description="Posts and images become a dataset.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "data"],
    params={
        "posts": Param(
            None,
            type=["null", "string"],
            title="Posts",
            description="Folder with posts.jsonl, or the file itself: s3://…, or a path that the cluster can read.",
        ),
        **recipe_params("tiny"),
    },
) as dag:
    planned = plan({"posts": "posts"})
    ingest = RayJobOperator(task_id="ingest", stage="ingest", plan=planned, inputs={"posts": planned})
    perceive = RayJobOperator(task_id="perceive", stage="perceive", plan=planned, inputs={"dataset": ingest.output})
    announce(DATASET, "dataset", planned, [ingest.output, perceive.output])
