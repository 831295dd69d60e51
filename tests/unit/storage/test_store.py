"""The store's promises, held on a local folder and on S3 alike."""

from __future__ import annotations

import http.server
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.response import StreamingBody

from boig_core.errors import (
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from boig_core.storage import disk, store


def test_write_read_replace_delete(root: str) -> None:
    uri = store.join(root, "a", "b.txt")
    assert not store.exists(uri)
    with pytest.raises(NotFoundInStoreError, match=r"b\.txt"):
        store.read_bytes(uri)
    store.write_bytes(uri, b"one")
    store.write_bytes(uri, b"two")
    assert store.read_bytes(uri) == b"two"
    store.delete_file(uri)
    store.delete_file(uri)
    assert not store.exists(uri)


def test_list_files_is_sorted_relative_and_recursive(root: str) -> None:
    assert store.list_files(root) == []
    for path in ("b", "a/z", "a/y/x", "ab"):
        store.write_bytes(store.join(root, path), path.encode())
    assert store.list_files(root) == [("a/y/x", 5), ("a/z", 3), ("ab", 2), ("b", 1)]
    assert store.list_files(store.join(root, "a")) == [("y/x", 5), ("z", 3)], (
        "a prefix is a folder, not the start of a name"
    )


def test_local_listing_leaves_out_what_is_being_written(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    with disk.written_beside(target, b"half"):
        assert store.list_files(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_keys_may_hold_any_character(root: str) -> None:
    uri = store.join(root, "what? is #1 + é.txt")
    store.write_bytes(uri, b"x")
    assert store.read_bytes(uri) == b"x"
    assert store.list_files(root) == [("what? is #1 + é.txt", 1)]


def test_folders_travel_whole(root: str, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "deep").mkdir(parents=True)
    # Above boto3's threshold for several parts.
    (source / "a.bin").write_bytes(os.urandom(9_000_000))
    (source / "deep" / "b.bin").write_bytes(b"b")
    store.upload_folder(source, store.join(root, "folder"))
    store.download_folder(store.join(root, "folder"), back)
    assert {
        p.relative_to(back).as_posix(): p.read_bytes() for p in back.rglob("*") if p.is_file()
    } == {
        "a.bin": (source / "a.bin").read_bytes(),
        "deep/b.bin": b"b",
    }


def test_failed_download_leaves_nothing(root: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundInStoreError):
        store.download_file(store.join(root, "missing"), tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []


def test_pyarrow_reads_and_writes_the_same_store(root: str) -> None:
    store.write_bytes(store.join(root, "marker"), b"")
    table = pa.table({"n": [1, 2, 3]})
    filesystem, path = store.filesystem(store.join(root, "bulk.parquet"))
    pq.write_table(table, path, filesystem=filesystem)
    assert store.list_files(root)[0][0] == "bulk.parquet"
    assert pq.read_table(path, filesystem=filesystem) == table


def test_put_if_absent_has_one_winner_among_threads(root: str) -> None:
    uri = store.join(root, "task", "commit.json")
    start = threading.Barrier(16)

    def put(n: int) -> bool:
        start.wait()
        return store.put_if_absent(uri, f"writer {n}".encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(put, range(16)))
    assert sum(won) == 1
    assert store.read_bytes(uri) == f"writer {won.index(True)}".encode()
    assert store.put_if_absent(uri, f"writer {won.index(True)}".encode()), (
        "finding one's own bytes is success: an answer may get lost"
    )


RACER = """
import sys
from boig_core.storage import disk, store
sys.stdin.read(1)
print(store.put_if_absent(sys.argv[1], sys.argv[2].encode()))
"""


def test_put_if_absent_has_one_winner_among_processes(root: str) -> None:
    uri = store.join(root, "commit.json")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, uri, f"p{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("x")
        racer.stdin.flush()
    answers = [racer.communicate()[0].strip() for racer in racers]
    assert sorted(answers) == ["False", "False", "True"]
    assert store.read_bytes(uri) == f"p{answers.index('True')}".encode()


def test_probe_passes_and_cleans_up(root: str) -> None:
    store.probe(root)
    assert store.list_files(root) == []


@pytest.mark.parametrize("honest_when_late", [True, False])
def test_probe_refuses_a_store_without_exclusive_puts(
    root: str, monkeypatch: pytest.MonkeyPatch, honest_when_late: bool
) -> None:
    def careless(uri: str, data: bytes) -> bool:
        if honest_when_late and data == b"late":
            return False
        store.write_bytes(uri, data)
        return True

    monkeypatch.setattr(store, "put_if_absent", careless)
    with pytest.raises(InputError, match="If-None-Match"):
        store.probe(root)
    assert store.list_files(root) == []


def test_file_in_the_way_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for act in (
        store.probe,
        lambda uri: store.write_bytes(f"{uri}/x", b""),
        lambda uri: store.upload_file(tmp_path / "file", f"{uri}/x"),
    ):
        with pytest.raises(InputError, match="file stands where a folder belongs"):
            act(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize(
    "act",
    [
        "store.probe(uri)",
        "store.write_bytes(uri + '/x', b'')",
        "store.exists(uri + '/deep/x')",
        "store.read_bytes(uri + '/x')",
    ],
)
def test_local_folder_without_permission(tmp_path: Path, act: str) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o000)
    code = (  # no mode binds root, so root steps down once everything is imported
        "import os, sys; from boig_core.errors import BoigError; from boig_core.storage import store\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        f"try: uri = sys.argv[1]; {act}\n"
        "except BoigError as exc: print(type(exc).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    folder.chmod(0o700)
    assert done.stdout.strip() == "StorePermissionError", done.stderr
    assert list(folder.iterdir()) == []


def test_missing_bucket(s3_bucket: str) -> None:
    with pytest.raises(NotFoundInStoreError, match="bucket does not exist"):
        store.probe("s3://no-such-bucket/x")


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("s3://", "names no bucket"),
        ("gs://bucket/x", "is no store"),
        ("s3://AKIA:hush@bucket/x", "carries credentials"),
        ("https://host/posts.jsonl?X-Amz-Signature=hush", "carries credentials"),
        ("https://host/posts.jsonl?page=1&sig=hush", "carries credentials"),
        ("https://host/posts.jsonl?token=hush", "carries credentials"),
        ("https://host/posts.jsonl?a=b&access_token=hush", "carries credentials"),
        ("https://host/posts.jsonl?api_key=hush", "carries credentials"),
        ("https://host/posts.jsonl?APIKEY=hush", "carries credentials"),
        ("https://host/posts.jsonl?x-amz-signature=hush", "carries credentials"),
    ],
)
def test_bad_locations(uri: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule) as caught:
        store.filesystem(uri)
    assert "hush" not in str(caught.value)


class _Refuses(http.server.BaseHTTPRequestHandler):
    """Answers each request with its server's status, and records the requests."""

    status, code, stored = 403, "AccessDenied", False

    def _answer(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def refusing(
    request: pytest.FixtureRequest, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    status, code = request.param
    handler = type("Handler", (_Refuses,), {"status": status, "code": code})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield "s3://bucket/prefix"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "refusing",
    [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (403, "InvalidAccessKeyId")],
    indirect=True,
)
def test_refused_identity(refusing: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for act in (
        lambda: store.probe(refusing),
        lambda: store.read_bytes(f"{refusing}/x"),
        lambda: store.exists(f"{refusing}/x"),
        lambda: store.list_files(refusing),
        lambda: store.upload_file(tmp_path / "file", f"{refusing}/x"),
        lambda: store.download_file(f"{refusing}/x", tmp_path / "y"),
    ):
        with pytest.raises(StorePermissionError, match="refuses this identity"):
            act()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("refusing", [(409, "ConditionalRequestConflict")], indirect=True)
def test_endless_conflict_is_no_loss(refusing: str) -> None:
    with pytest.raises(StoreUnavailableError, match="another writer"):
        store.put_if_absent(f"{refusing}/x", b"token")


@pytest.mark.parametrize("refusing", [(501, "NotImplemented")], indirect=True)
def test_server_without_conditional_puts(refusing: str) -> None:
    with pytest.raises(InputError, match="If-None-Match"):
        store.put_if_absent(f"{refusing}/x", b"token")


def test_store_that_is_away(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnavailableError, match="AWS_ENDPOINT_URL"):
        store.read_bytes("s3://bucket/x")


def test_a_connection_that_is_cut_is_no_short_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def get_object(self, **_: str) -> dict[str, StreamingBody]:
            return {"Body": StreamingBody(io.BytesIO(b"x" * 400), 1000)}

    monkeypatch.setattr(store.s3, "client", Client)
    for most in (None, 5000, 600):
        with pytest.raises(StoreUnavailableError):
            store.read_bytes("s3://bucket/key", most)
    assert store.read_bytes("s3://bucket/key", 300) == b"x" * 300


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    # Has no client of an earlier test.
    another = os.environ["AWS_ENDPOINT_URL"].replace("127.0.0.1", "localhost")
    monkeypatch.setenv("AWS_ENDPOINT_URL", another)
    with pytest.raises(StorePermissionError, match="no AWS credentials"):
        store.read_bytes("s3://bucket/x")


def test_many_threads_may_use_the_store_first(s3_bucket: str) -> None:
    """A new process whose threads all read at once: none may meet boto3 half-imported or a client
    half-made."""
    store.write_bytes(f"{s3_bucket}/first", b"x")
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from boig_core.storage import store\n"
        "with ThreadPoolExecutor(16) as pool: print(len(list(pool.map(store.read_bytes, ['"
        + s3_bucket
        + "/first'] * 64))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "64", done.stderr


def test_import_is_light() -> None:
    code = (
        "import sys, boig_core.storage.job; "
        "print([m for m in ('boto3', 'botocore', 'pyarrow', 'torch', 'ray', 'pandas', 'numpy') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
