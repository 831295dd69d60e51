"""Where a DAG param may point."""

from __future__ import annotations

import pytest

from boig_core.errors import InputError
from boig_core.orchestration.roots import allowed

ROOTS = "/data/brands , s3://posts/2026/,https://cdn.example/brands"


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
    ],
)
def test_below_the_store_and_the_named_roots(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("BOIG_ROOTS", ROOTS)
    assert allowed(uri, "/store")


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
        "https://cdn.example/brands/../admin",
        "https://cdn.example/brands/%2e%2e/admin",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_nowhere_else(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("BOIG_ROOTS", ROOTS)
    with pytest.raises(InputError, match="lies below no allowed root"):
        allowed(uri, "/store")


def test_without_roots_only_the_store_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOIG_ROOTS", raising=False)
    assert allowed("s3://b/store/x", "s3://b/store") == "s3://b/store/x"
    with pytest.raises(InputError, match="BOIG_ROOTS"):
        allowed("/data/posts.jsonl", "s3://b/store")
