"""# boig_ingest: posts become a dataset

Takes a brand's posting history (`posts`: a posts.jsonl with images beside it, over http or in S3), and makes a dataset that the models
learn from: **ingest** validates and filters posts, fetches and de-duplicates images, puts each post into a KPI bucket of its account and
into a split; **perceive** looks at each image: colors, tones, objects.

A new day's posts are added to a version with `previous`; `retry` tries again what a version had to reject. A run that is killed goes on
from the images that are safe already.

Emits the asset `boig/dataset`, which starts `boig_llm`. Nothing else needs to be given than `posts`.
"""

from airflow.sdk import DAG, Param

from boig_core.orchestration.assets import DATASET, DEFAULTS, announce, plan, recipe_params
from boig_core.orchestration.callbacks import on_failure
from boig_core.orchestration.deadlines import deadline
from boig_core.orchestration.operator import RayJobOperator

with DAG(
    "boig_ingest",
    description="Posts and images become a dataset.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    deadline=deadline(),
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "data"],
    params={
        "posts": Param(
            None,
            type=["null", "string"],
            title="Posts",
            description="Folder with posts.jsonl, the file itself, or a glob: s3://…, https://…, or a path that the cluster can read.",
        ),
        "previous": Param(
            None,
            type=["null", "string"],
            title="Previous version",
            description="URI of a version of the dataset that the posts are added to: what it holds is not fetched again.",
        ),
        "retry": Param(
            None,
            type=["null", "string"],
            title="Version to retry",
            description="URI of a version whose rejected rows and images are tried again, with or without new posts.",
        ),
        **recipe_params("tiny"),
    },
) as dag:
    planned = plan({"posts": "posts"}, instead={"previous": "dataset", "retry": "dataset"})
    ingest = RayJobOperator(
        task_id="ingest", stage="ingest", plan=planned, inputs={"posts": planned, "previous": planned, "retry": planned}
    )
    perceive = RayJobOperator(task_id="perceive", stage="perceive", plan=planned, inputs={"dataset": ingest.output})
    announce(DATASET, "dataset", planned, [ingest.output, perceive.output])
