"""A store on a local folder, and the same on S3: moto, and a real server where there is one."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["local", "s3_bucket", "real_s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}"
