"""The environment variables of boig, in one list: the code reads them through it, and the page
``docs/reference/environment.md`` is made from it.

A recipe says what a run computes; these say where an installation keeps things and how it is
watched. Leaves out: variables of others that boig honors (AWS, Airflow, Ray, MLflow), which the
page names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Variable:
    """An environment variable that boig reads.

    Attributes:
        name: as it is spelled in the environment.
        meaning: what it decides, for somebody who sets it.
        unset: what holds where it is not set, or is empty.
        readers: the processes that need it.
        example: a value, as one would write it.
    """

    name: str
    meaning: str
    unset: str
    readers: str
    example: str

    def read(self) -> str | None:
        """Its value without spaces around it; None where it is not set or empty."""
        return os.environ.get(self.name, "").strip() or None


STORE: Final = Variable(
    "BOIG_STORE",
    "Root of the store, where every input and output lies: an S3 location or a folder that all"
    " machines see under the same path.",
    "the command line uses `.boig/store`; Airflow uses the store that an asset event names, and"
    " fails where there is none",
    "command line, all of Airflow, Ray",
    "s3://bucket/prefix",
)
POLICY: Final = Variable(
    "BOIG_POLICY",
    "Path of the operator's policy: which places, models, endpoints and gates a recipe may ask for."
    " The file has the same content everywhere.",
    "the strict default: what lies in the store and the models of the package",
    "command line, all of Airflow, Ray",
    "/etc/boig/policy.yaml",
)
INGEST_CRON: Final = Variable(
    "BOIG_INGEST_CRON",
    "When `boig_ingest` runs by itself: a cron expression, in UTC.",
    "`boig_ingest` runs when it is triggered",
    "Airflow: dag-processor",
    "0 3 * * *",
)
INGEST_POSTS: Final = Variable(
    "BOIG_INGEST_POSTS",
    "Posts that `boig_ingest` reads unless its param `posts` names others: a file, a folder or a"
    " glob.",
    "the param `posts` must name them",
    "Airflow: dag-processor, workers",
    "s3://exports/acme/*.jsonl.gz",
)
INGEST_RECIPE: Final = Variable(
    "BOIG_INGEST_RECIPE",
    "Recipe of `boig_ingest` unless its param `recipe` names another; the DAGs that follow take"
    " the same.",
    "`tiny`",
    "Airflow: dag-processor, workers",
    "/etc/boig/acme.yaml",
)
DEFERRABLE: Final = Variable(
    "BOIG_DEFERRABLE",
    "Whether a stage waits in the triggerer (`true`) or holds a worker's slot while it waits"
    " (`false`, for an Airflow without a triggerer).",
    "`true`",
    "Airflow: workers",
    "false",
)
RAY_PYTHON: Final = Variable(
    "BOIG_RAY_PYTHON",
    "Python that starts a stage on the Ray cluster.",
    "`python`, as the cluster's path finds it",
    "Airflow: workers",
    "/opt/venv/bin/python",
)
KUBERAY: Final = Variable(
    "BOIG_KUBERAY",
    "Path of the RayJob from which each stage's own cluster is made on Kubernetes.",
    "stages go to the Ray cluster of the connection `ray_default` or of `RAY_API_ADDRESS`",
    "Airflow: workers, triggerer",
    "/etc/boig/rayjob.yaml",
)
CLUSTER_SLOTS: Final = Variable(
    "BOIG_CLUSTER_SLOTS",
    "Stages that use the Ray cluster at once in the compose stack: the slots of Airflow's pool"
    " `boig_cluster`.",
    "1",
    "compose",
    "2",
)
RAY_WEB: Final = Variable(
    "BOIG_RAY_WEB",
    "Address under which people see Ray's dashboard in a browser, for links, where Airflow itself"
    " reaches it under another.",
    "links lead to the address that Airflow uses",
    "Airflow: workers, triggerer",
    "https://ray.example",
)
MLFLOW_WEB: Final = Variable(
    "BOIG_MLFLOW_WEB",
    "Address under which people see MLflow in a browser, for links, where Airflow itself reaches"
    " it under another.",
    "links lead to `MLFLOW_TRACKING_URI`",
    "Airflow: workers, triggerer",
    "https://mlflow.example",
)
ALERT_URL: Final = Variable(
    "BOIG_ALERT_URL",
    "Where alerts go: one address or several, separated by commas, as Apprise writes them. It is"
    " secret.",
    "no alert is sent",
    "Airflow: workers, triggerer, dag-processor",
    "slack://TOKEN_A/TOKEN_B/TOKEN_C/#retraining",
)
DEADLINE_H: Final = Variable(
    "BOIG_DEADLINE_H",
    "Hours after which a run that is not over yet is told as late.",
    "no run is late",
    "Airflow: dag-processor",
    "12",
)
GPU_HOUR_PRICE: Final = Variable(
    "BOIG_GPU_HOUR_PRICE",
    "What an hour of one GPU costs, in the currency that your team counts in; results and"
    " `boig status` then show a cost.",
    "GPU-hours are shown without a cost",
    "Airflow: workers; Ray; command line",
    "2.50",
)
SIGNING_KEY: Final = Variable(
    "BOIG_SIGNING_KEY",
    "PEM file of the Ed25519 private key, without a password, by which decisions on promotions are"
    " signed. Who can read it can sign, so it belongs to Airflow's workers alone.",
    "decisions are not signed",
    "Airflow: workers",
    "/run/secrets/boig-signing.pem",
)
VERIFY_KEY: Final = Variable(
    "BOIG_VERIFY_KEY",
    "PEM file of the public key to it. Where it is set, a model that no decision signed by this key"
    " has approved is neither promoted, nor rolled back to, nor opened as champion.",
    "signatures are not asked for",
    "Airflow: workers; command line",
    "/etc/boig/boig-signing.pub",
)
LOG_LEVEL: Final = Variable(
    "BOIG_LOG_LEVEL",
    "Level of boig's own log lines; libraries stay at WARNING.",
    "`INFO`",
    "command line, Ray",
    "DEBUG",
)
TEST_S3: Final = Variable(
    "BOIG_TEST_S3",
    "Address of a real S3 server that the tests of the store use beside their own; the AWS"
    " variables hold its keys.",
    "those cases are skipped",
    "tests",
    "http://127.0.0.1:7480",
)

VARIABLES: Final = tuple(value for value in list(globals().values()) if isinstance(value, Variable))
"""All of them, in the order of a reader's questions: where, when, how, and how it is watched."""
