"""A decoder that does what an image's first word says, as hostile images make a real one do it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from boig_core.data.imaging import images
from boig_core.data.rejects import Rejected

_poisoned = False


def normalize(data: bytes, *rules: Any) -> images.StoredImage:
    global _poisoned
    word = data.partition(b" ")[0]
    if word == b"spin":
        while True:
            pass
    if word == b"sleep":
        time.sleep(60)
    if word == b"eat":
        bytearray(2**30)
    if word == b"crash" or (word == b"victim" and _poisoned):
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == b"leave":
        os._exit(1)
    if word == b"cut":
        os.ftruncate(int(sys.argv[3]), 0)
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == b"babble":
        os.write(int(sys.argv[2]), b"\xff" * 64)
        time.sleep(60)
    if word == b"raise":
        raise RuntimeError("odd")
    if word == b"poison":
        _poisoned = True
    if word in {b"poison", b"victim"}:
        raise Rejected("image_animated", "all is well")
    if word == b"environment":
        raise Rejected("image_animated", json.dumps(dict(os.environ)))
    return images.normalize(data, *rules)
