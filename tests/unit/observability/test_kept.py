"""A kept log: chunks in order, each settled once, whatever the store does meanwhile."""

from __future__ import annotations

import base64
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import hide_secrets


@given(
    lines=st.lists(st.text("abcé", max_size=30), max_size=30),
    answers=st.lists(st.sampled_from(["written", "lost", "away"]), max_size=20),
)
def test_no_line_is_missed_or_repeated_and_no_chunk_changes(
    lines: list[str], answers: list[str]
) -> None:
    written: dict[int, bytes] = {}
    coming = iter(answers)

    def put(number: int, chunk: bytes) -> None:
        answer = next(coming, "written")
        if answer != "away":
            assert written.setdefault(number, chunk) == chunk, "a reader may have seen it already"
        if answer != "written":
            raise ConnectionError("no answer")

    kept = KeptLog(put, limit=64, every_s=3600)
    kept.setFormatter(logging.Formatter("%(message)s"))
    for line in lines:
        kept.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, line, None, None))
        kept.write()
    for _ in range(len(answers) + 1):
        kept.write()
    assert sorted(written) == list(range(1, len(written) + 1))
    assert b"".join(written[number] for number in sorted(written)).decode() == "".join(
        f"{line}\n" for line in lines
    )
    assert all(len(chunk) <= 64 for chunk in written.values())


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-value-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted-value-2@mlflow.example:5000")
    shown = hide_secrets(
        "key planted-value-1, pw planted-value-2, http://a:b@host/x and https://host/x@y"
    )
    assert (
        shown
        == "key [SOME_API_KEY], pw [password], http://[credentials]@host/x and https://host/x@y"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_PASS", "hush/hush+hush"),
        ("GITHUB_PAT", "hush/hush+hush"),
        ("SLACK_WEBHOOK", "hush/hush+hush"),
        ("TEAMS_WEBHOOK_URL", "hush/hush+hush"),
        ("SENTRY_DSN", "hush/hush+hush"),
        ("AIRFLOW_CONN_X", '{"conn_type": "http", "password": "hush/hush+hush"}'),
        ("AIRFLOW_CONN_Y", '{"extra": {"aws_secret_access_key": "hush/hush+hush"}}'),
    ],
    # Pytest puts the id into the environment.
    ids=range(7),
)
def test_secrets_of_many_names_are_hidden_in_every_form(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for form in ("hush/hush+hush", "hush%2Fhush%2Bhush", "aHVzaC9odXNoK2h1c2g="):
        assert form not in hide_secrets(f"the server got {form} and refused it")
    monkeypatch.delenv(name)
    assert hide_secrets("hush/hush+hush") == "hush/hush+hush"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("aws://AKIA:wJalr%2FK7MDENG%2BbPx@/", "wJalr/K7MDENG+bPx"),
        ("http://user:hush-hush@host", base64.b64encode(b"user:hush-hush").decode()),
        (json.dumps({"password": 'a"b\\c-hush'}), 'a"b\\c-hush'),
        (json.dumps({"extra": json.dumps({"secret_id": "hush-hush"})}), "hush-hush"),
    ],
    ids=range(4),
)
def test_a_secret_is_hidden_as_it_is_meant(
    monkeypatch: pytest.MonkeyPatch, value: str, shown: str
) -> None:
    assert hide_secrets(f"sent {shown}") == f"sent {shown}"
    monkeypatch.setenv("AIRFLOW_CONN_X", value)
    assert shown not in hide_secrets(f"sent {shown}")


def test_what_is_only_called_a_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    tolerations = [{"key": "nvidia.com/gpu", "tokenizer": "large-model", "bucket_key": "a/b/c/d/e"}]
    monkeypatch.setenv("TOLERATIONS", json.dumps(tolerations))
    text = "nvidia.com/gpu large-model a/b/c/d/e"
    assert hide_secrets(text) == text


def test_a_secret_that_begins_another_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SHORT_KEY", "planted-value")
    monkeypatch.setenv("B_LONGER_KEY", "planted-value-and-more")
    assert hide_secrets("key planted-value-and-more") == "key [B_LONGER_KEY]"
