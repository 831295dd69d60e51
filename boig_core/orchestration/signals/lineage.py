"""What a stage has read and made, as OpenLineage datasets, for Airflow's OpenLineage provider where
that is installed (extra ``lineage``).

Each is named by its location, as OpenLineage names files and S3 objects, so what one stage made and
the next one reads is one dataset. Leaves out: sending, which the provider does.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from boig_core.errors import UserError
from boig_core.storage import manifest, store
from boig_core.storage.job import read_job

ROWS: Final = "samples"
"""Key of a dataset's numbers with the rows of its labels; models and reports have none."""


def of_attempt(attempt: str, outputs: dict[str, str]) -> Any:
    """Lineage of an attempt.

    Args:
        attempt: its folder, whose job names the inputs.
        outputs: URI of each output by name; empty where the attempt failed.

    Returns:
        An ``OperatorLineage`` with version, bytes, files and rows of each dataset, as far as its
        manifest knows them.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import (
        input_statistics_input_dataset,
        output_statistics_output_dataset,
    )

    read = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
    written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    lineage = OperatorLineage()
    for uri in read_job(store.join(attempt, "job.json")).inputs.values():
        place, version, numbers = _facts(uri)
        lineage.inputs.append(
            InputDataset(
                **place,
                facets=version,
                inputFacets={"inputStatistics": read(**numbers)} if numbers else {},
            )
        )
    for uri in outputs.values():
        place, version, numbers = _facts(uri)
        lineage.outputs.append(
            OutputDataset(
                **place,
                facets=version,
                outputFacets={"outputStatistics": written(**numbers)} if numbers else {},
            )
        )
    return lineage


def place_of(uri: str) -> dict[str, str]:
    """Namespace and name of a location: ``s3://BUCKET`` and key, ``https://HOST`` and path,
    ``file`` and path."""
    if "://" not in uri:
        return {"namespace": "file", "name": store.normalize(uri)}
    parts = urlsplit(uri)
    return {"namespace": f"{parts.scheme}://{parts.netloc}", "name": parts.path.strip("/") or "/"}


def _facts(uri: str) -> tuple[dict[str, str], dict[str, Any], dict[str, int]]:
    """Place, facets and statistics of an output; a place alone for raw posts and whatever has no
    manifest."""
    from openlineage.client.facet_v2 import dataset_version_dataset

    place = place_of(uri)
    try:
        published = manifest.read_record(uri)
    except UserError:
        return place, {}, {}
    numbers = {
        "size": sum(file.size for file in published.files),
        "fileCount": len(published.files),
    }
    if isinstance(rows := published.meta.get(ROWS), int):
        numbers["rowCount"] = rows
    return (
        place,
        {"version": dataset_version_dataset.DatasetVersionDatasetFacet(published.digest())},
        numbers,
    )
