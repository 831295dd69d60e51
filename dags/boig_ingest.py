"""Turns a brand's posting history into a dataset that the models learn from.

### What starts it

A person, or the schedule in `BOIG_INGEST_CRON`. By hand, a run takes all `posts` (a posts.jsonl
with images beside it, over http or in S3), and nothing else needs to be given. `previous` adds them
to a version; `retry` tries again what a version had to reject. On the schedule, and in a backfill,
a run takes the posts of its data interval, and those that came late, and adds them to the newest
version. An interval without any ends there, skipped, and announces nothing.

### What it makes

A new version of the dataset, and the asset `boig/dataset`:

* **plan** checks recipe and inputs;
* **turn** lets one run work at a time, the earliest interval first, whatever a backfill allows;
* **ingest** validates and filters posts, fetches and de-duplicates images, puts each post into a
  KPI bucket of its account and a split;
* **perceive** looks at each image: colors, tones, objects;
* **announce** emits `boig/dataset`, which starts `boig_llm`.

A stage that runs on Ray is shown as *deferred*. Its log is the task's log; the buttons under
*Details* lead to its job and its pages.

### When it fails

A wrong input fails at once, anything else after three more tries; the last line of the task's log
names the cause and the remedy. Clear the task once the cause is gone: a run goes on from the images
that are safe already. Where a param was wrong, trigger a new run, and where **announce** says that
its turn is over, clear the run from **turn** on.

### Sample conf

```json
{
  "posts": "s3://boig/posts",
  "recipe": "tiny",
  "overrides": ["data.name=acme", "data.min_text=20"]
}
```
"""

from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from boig_core import environment
from boig_core.orchestration.planning.assets import (
    DATASET,
    DEFAULTS,
    announce,
    plan,
)
from boig_core.orchestration.planning.intervals import take_turn
from boig_core.orchestration.planning.params import LOCATION, recipe_params
from boig_core.orchestration.signals.callbacks import on_failure
from boig_core.orchestration.signals.deadlines import deadline
from boig_core.orchestration.stage.operator import RayJobOperator

CRON = environment.INGEST_CRON.read()

with DAG(
    "boig_ingest",
    description="Posts and images become a dataset.",
    # With data intervals, whatever Airflow's default for a cron text is: a run must know from when
    # to when its posts are.
    schedule=CronDataIntervalTimetable(CRON, timezone="UTC") if CRON else None,
    # A run reads on from the newest post that the data holds, so one run makes up for all that were
    # missed.
    catchup=False,
    # A backfill has a limit of its own. The task `turn` holds its runs apart.
    max_active_runs=1,
    deadline=deadline(),
    default_args={**DEFAULTS, "on_failure_callback": on_failure},
    doc_md=__doc__,
    tags=["boig", "data"],
    params={
        "posts": Param(
            environment.INGEST_POSTS.read(),
            **LOCATION,
            title="Posts",
            description="Folder with posts.jsonl, the file itself, or a glob: s3://…, https://…, or a path that the cluster can read.",
        ),
        "previous": Param(
            None,
            **LOCATION,
            title="Previous version",
            description="URI of a version of the dataset that the posts are added to: what it holds is not fetched again.",
        ),
        "retry": Param(
            None,
            **LOCATION,
            title="Version to retry",
            description="URI of a version whose rejected rows and images are tried again, with or without new posts.",
        ),
        **recipe_params(environment.INGEST_RECIPE.read() or "tiny"),
    },
) as dag:
    planned = plan({"posts": "posts"}, instead={"previous": "dataset", "retry": "dataset"})
    turn = take_turn(DATASET, planned)
    # `turn` hands on the previous version that a person has named, or else the newest one.
    posts = {"posts": planned, "previous": turn, "retry": planned, "period": turn}
    ingest = RayJobOperator(task_id="ingest", stage="ingest", plan=planned, inputs=posts)
    perceive = RayJobOperator(
        task_id="perceive", stage="perceive", plan=planned, inputs={"dataset": ingest.output}
    )
    announce(DATASET, "dataset", planned, [ingest.output, perceive.output], turn)
