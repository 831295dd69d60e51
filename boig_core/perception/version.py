"""What a description depends on beside the image: settings, models and the code of this room, as
one short key.

Results are kept by image and key, so that an unchanged image is looked at once (see
`data.perceived`). The code counts by its source: a changed threshold can then never serve old
results, at the price of looking again after an upgrade that changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from boig_core import vocabulary
from boig_core.config import Perception
from boig_core.models import model_version


def perception_key(perception: Perception) -> str:
    """16 hex digits that change with anything that could change a result.

    Raises:
        InputError: a model that cannot be found.
    """
    # A recipe always has a CLIP, but it looks at images only where it has names to choose among.
    named = perception.clip if perception.kinds or perception.tags else None
    models = [
        model_version(ref)
        for ref in (named, perception.detector_model, perception.caption_model)
        if ref is not None
    ]
    # How many images go through a model at a time changes no result, nor does the leave to use it.
    settings = perception.model_dump(mode="json", exclude={"batch", "clip_anyway"})
    # In the order of names, since a folder lists its files in any. The palette and how keywords are
    # read stand in the vocabulary.
    code = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(vocabulary.__file__))
    ]
    return hashlib.sha256(
        json.dumps([settings, models, code], sort_keys=True).encode()
    ).hexdigest()[:16]
