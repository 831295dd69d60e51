"""Where a DAG param may point."""

from __future__ import annotations

from pathlib import Path

import pytest

from boig_core.config import Policy
from boig_core.errors import PolicyError
from boig_core.orchestration.roots import allowed

POLICY = Policy(
    posts=("/data/brands", "s3://posts/2026/", "https://cdn.example/brands"),
    outputs=("s3://other/store",),
)


@pytest.mark.parametrize(
    "uri",
    [
        "/store",
        "/store/datasets/d/v1/",
        "file:///store/datasets/d/v1",
        "/data/brands/b 1/posts.jsonl",
        "/data/brands/../brands/*.jsonl",
        "s3://posts/2026/a.jsonl",
        "https://cdn.example/brands/posts.csv?page=1",
        "https://CDN.example:443/brands/posts.csv",
    ],
)
def test_below_the_store_and_the_named_roots(uri: str) -> None:
    assert allowed(uri, "/store", POLICY, "posts")


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "/store-of-another/x",
        "/store/../etc/passwd",
        "file:///store/..%2fetc/passwd",
        "/data/brands/../../etc/*",
        "s3://posts/2025/a.jsonl",
        "s3://posts/2026/../2025/a.jsonl",
        "s3://posts-of-another/2026/a.jsonl",
        "http://cdn.example/brands/posts.csv",
        "https://cdn.example.evil/brands/posts.csv",
        "https://cdn.example:8443/brands/posts.csv",
        "https://cdn.example/brands/../admin",
        "https://cdn.example/brands/%2e%2e/admin",
        "http://169.254.169.254/latest/meta-data",
        "s3://other/store/datasets/d/v1",
    ],
)
def test_nowhere_else(uri: str) -> None:
    with pytest.raises(PolicyError, match=r"lies below no root that .*posts"):
        allowed(uri, "/store", POLICY, "posts")


def test_links_are_resolved_before_they_are_compared(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(PolicyError):
        allowed(
            str(tmp_path / "store" / "link" / "posts.jsonl"),
            str(tmp_path / "store"),
            POLICY,
            "posts",
        )


def test_by_default_only_the_store_is_allowed() -> None:
    assert allowed("s3://b/store/x", "s3://b/store", Policy(), "outputs") == "s3://b/store/x"
    with pytest.raises(PolicyError, match="BOIG_POLICY is not set"):
        allowed("/data/posts.jsonl", "s3://b/store", Policy(), "posts")
