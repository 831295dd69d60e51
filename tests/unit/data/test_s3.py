"""An export and a dataset on S3, against moto's server over HTTP."""

import io
import json

import numpy as np
from PIL import Image

from boig_core.config import Data
from boig_core.data import dataset, tables
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.images import StoredImage
from boig_core.data.posts import Reject, accept
from boig_core.data.reading.sources import find_sources, read_rows
from boig_core.data.rejects import Rejected
from boig_core.storage import store


def test_posts_images_and_shards_on_s3(s3_bucket: str) -> None:
    bucket = f"{s3_bucket}/exports-and-shards"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, format="PNG")
    store.write_bytes(f"{bucket}/export/images/a.png", buffer.getvalue())
    row = {
        "id": "1",
        "account": "a",
        "timestamp": "2020-01-01",
        "text": "x" * 60,
        "image": "images/a.png",
        "likes": 3,
    }
    store.write_bytes(f"{bucket}/export/posts.jsonl", json.dumps(row).encode())

    [source] = find_sources(f"{bucket}/export")
    assert source == f"{bucket}/export/posts.jsonl" == find_sources(f"{bucket}/exp*/*.jsonl")[0]
    [result] = accept(source, read_rows(source, Data()), Data())
    assert not isinstance(result, Reject)
    wanted = [
        ImageReference(f"{bucket}/export", f"{bucket}/export/{name}")
        for name in (*result[1].images, "images/none.png")
    ]
    fetched = dict(Fetcher(Data()).fetch(wanted, Reach()))
    good, missing = (fetched[name] for name in wanted)
    assert isinstance(good, StoredImage)
    assert good.data == buffer.getvalue()
    assert isinstance(missing, Rejected)
    assert missing.code == "image_missing"

    entry = tables.write_shard(
        tables.image_table([good]), tables.IMAGES, f"{bucket}/store/datasets/d"
    )
    version = f"{bucket}/store/datasets/d/v1"
    assert dataset.shard_rows(version, entry) == 1
    assert list(dataset.shard_images(version, entry)) == [good]
