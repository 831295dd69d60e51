"""Fetching goes on while images are decoded, holds few of them, and ends with its caller."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boig_core.data.fetching import fetch
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.images import StoredImage
from tests.unit.data.misbehaving import png
from tests.unit.data.test_fetch import INTRANET, code


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_fetch_on_while_images_wait_for_a_decoder_but_few_are_held(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = StoredImage(b"x", "0" * 64, 1, 1, "0" * 22)
    waiting: list[Callable[[StoredImage], None]] = []
    most = fetch._ON_THE_WAY * threads

    def decode(*arguments: Any) -> None:
        waiting.append(arguments[-1])
        # Nothing is answered before as much has come as may be held.
        if len(waiting) % most == 0:
            for answer in waiting[-most:]:
                answer(image)

    monkeypatch.setattr(fetch, "decode_untrusted", decode)
    (tmp_path / "x.png").write_bytes(png())
    data = INTRANET.model_copy(update={"fetch_concurrency": threads})
    wanted = [ImageReference(str(tmp_path), f"{tmp_path}/x.png") for _ in range(4 * most)]
    taken = 0
    for taken, _ in enumerate(Fetcher(data).fetch(wanted, Reach()), 1):
        assert len(waiting) <= taken + most
    assert taken == len(wanted)


def test_threads_end_when_nobody_takes_what_they_fetch(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(60)]
    for file in files:
        file.write_bytes(png())
    wanted = [ImageReference(str(tmp_path), str(file)) for file in files]
    two = INTRANET.model_copy(update={"fetch_concurrency": 2})
    result = Fetcher(two).fetch(wanted, Reach())
    assert code(next(result)[1]) == "stored"
    result.close()  # type: ignore[attr-defined]
    for thread in [thread for thread in threading.enumerate() if thread.name == "boig-fetch"]:
        thread.join(5)
        assert not thread.is_alive()
