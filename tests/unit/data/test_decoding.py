"""Decoding apart: whatever an image does to the process that decodes it, it is that image's reject
alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from boig_core.data.imaging import decoding
from boig_core.data.imaging.decoder_process import Allowance
from boig_core.data.imaging.decoding import DecoderPool, allowance, normalize_untrusted
from boig_core.data.imaging.images import StoredImage, normalize
from boig_core.data.rejects import Rejected
from boig_core.errors import InfrastructureError
from tests.unit.data.conftest import picture

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

FAULTY = "tests.unit.data.faulty_decoder:normalize"
ROOT = Path(__file__).resolve().parents[3]


def one_color() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faulty() -> Iterator[DecoderPool]:
    """One process, so that images come in batches."""
    pool = DecoderPool(1, Allowance(0.5, 64), FAULTY)
    yield pool
    pool.close()


def outcome(pool: DecoderPool, data: bytes) -> StoredImage | str:
    try:
        return pool.normalize(data, 10_000)
    except Rejected as exc:
        return f"{exc.code}: {exc.reason}"


def outcomes(pool: DecoderPool, images: list[bytes]) -> list[StoredImage | str]:
    """Of images that come at once."""
    with ThreadPoolExecutor(len(images)) as threads:
        return list(threads.map(lambda data: outcome(pool, data), images))


@pytest.mark.parametrize(
    "data",
    [
        picture(0),
        picture(1, "JPEG"),
        picture(1, "JPEG", comment=b"by a name"),
        picture(2, "WEBP"),
        picture(3, "GIF"),
        picture(4, side=99),
        picture(5)[:60],
        b"<svg>",
        one_color(),  # needs more than others for its fingerprint
    ],
)
def test_apart_comes_out_what_comes_out_here(data: bytes) -> None:
    verdicts = []
    for work in (normalize, normalize_untrusted):
        try:
            verdicts.append(work(data, 9_000))
        except Rejected as exc:
            verdicts.append(exc.args)  # type: ignore[arg-type]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (b"spin", "took longer than 0.5 s to decode"),
        (b"eat", "needed more than 64 MiB to decode"),
        (b"crash", "the decoder crashed (SIGSEGV)"),
        (b"leave", "the decoder crashed (exit code 1)"),
        (b"babble", "the decoder crashed (it gave no answer that can be read)"),
        (b"raise", "the decoder failed (RuntimeError: odd)"),
    ],
)
def test_a_fault_is_that_images_reject_and_the_others_come_out(
    fault: bytes, reason: str, faulty: DecoderPool
) -> None:
    good = [picture(seed) for seed in range(6)]
    result = outcomes(faulty, [*good[:3], fault, *good[3:]])
    assert result.pop(3) == f"image_unreadable: {reason}"
    assert result == [normalize(data, 10_000) for data in good]


def test_a_decoder_that_cuts_what_is_shared_harms_nobody_else(faulty: DecoderPool) -> None:
    assert outcome(faulty, b"cut") == "image_unreadable: the decoder crashed (SIGSEGV)"
    assert outcome(faulty, picture(0)) == normalize(picture(0), 10_000)


def test_memory_of_a_large_file_is_given_back() -> None:
    pool = DecoderPool(1, Allowance(5, 64), FAULTY)
    for data in (b"raise " + bytes(9 * 2**20), b"raise"):
        assert "RuntimeError: odd" in str(outcome(pool, data))
    [pid] = pool.pids()
    shared = [
        fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "boig-decoder" in str(fd.readlink())
    ]
    assert [fd.stat().st_size < 2**20 for fd in shared] == [True]
    pool.close()


def test_a_decoder_that_waits_for_ever_is_killed_by_the_clock() -> None:
    pool = DecoderPool(1, Allowance(0.1, 64), FAULTY)
    assert outcome(pool, b"sleep") == "image_unreadable: took longer than 0.8 s to decode"
    pool.close()


def test_an_image_pays_for_nothing_that_another_left_behind(faulty: DecoderPool) -> None:
    for _ in range(2):
        assert outcome(faulty, b"poison") == "image_animated: all is well"
        assert outcome(faulty, b"victim") == "image_animated: all is well"


def test_threads_that_come_at_once_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_slowly() -> object:
        opened.append(object())
        time.sleep(0.02)
        return opened[-1]

    monkeypatch.setattr(decoding, "_pool", None)
    monkeypatch.setattr(decoding, "DecoderPool", open_slowly)
    with ThreadPoolExecutor(8) as threads:
        pools = list(threads.map(lambda _: decoding._shared(), range(8)))
    assert pools == opened * 8


def test_memory_is_limited_for_a_real_image() -> None:
    file, buffer = picture(0, side=8), io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(buffer, format="PNG")
    pool = DecoderPool(1, Allowance(10, 2))
    with pytest.raises(Rejected, match="more than 2 MiB"):
        pool.normalize(buffer.getvalue(), 10**7)
    assert pool.normalize(file, 10**7) == normalize(file, 10**7)
    pool.close()


@pytest.mark.parametrize("max_pixels", [10_000, 50_000_000, 200_000_000])
def test_the_allowance_is_enough_for_the_dearest_image_of_its_pixels(max_pixels: int) -> None:
    """Five copies at four bytes each, and a new file."""
    assert allowance(max_pixels).mib * 2**20 > 1.2 * 24 * max_pixels


def test_a_decoder_knows_no_secret(faulty: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    outcome(faulty, b"crash")  # the next process starts with this environment
    verdict = str(outcome(faulty, b"environment"))
    names = json.loads(verdict.partition(": ")[2]).keys()
    assert names <= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_LIBRARY_PATH", "LC_CTYPE"}


def test_a_decoder_that_does_not_start_is_no_fault_of_an_image() -> None:
    pool = DecoderPool(1, decoder="boig_core.data.imaging.images:nothing")
    with pytest.raises(InfrastructureError, match="does not start"):
        pool.normalize(picture(0), 10_000)
    pool.close()


_PARENT = """
import io, os, sys
from PIL import Image
from boig_core.data.imaging import decoding

def pids():
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, format="PNG")
    decoding.normalize_untrusted(file.getvalue(), 10_000)
    return decoding._shared().pids()

print(*pids(), flush=True)
if os.fork() == 0:
    print(*pids(), flush=True)  # has a pool of its own
sys.stdin.read()
"""


def test_decoders_end_with_their_parent_though_a_fork_of_it_lives() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    first, second = (set(map(int, parent.stdout.readline().split())) for _ in range(2))
    assert first
    assert second
    assert not first & second
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(first)
    assert all(psutil.pid_exists(pid) for pid in second)
    parent.stdin.close()
    assert wait_until_gone(second)


def wait_until_gone(pids: set[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
