"""`boig_ingest` as users of Airflow get it, but with its cluster found by the connection
`ray_default` alone."""

import os

os.environ.pop("RAY_API_ADDRESS", None)

from dags.boig_ingest import dag  # noqa: F401
