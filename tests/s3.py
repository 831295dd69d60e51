"""The way to the S3 server of tests (`tests.conftest.s3_endpoint`), for this process and those that
it starts."""

from __future__ import annotations

import pytest

BUCKET = "boig-tests"


def set_s3_environment(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Set the AWS variables until ``patch`` is undone."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        patch.setenv(name, value)
    patch.delenv("AWS_PROFILE", raising=False)
