"""An export and a dataset on S3, against moto's server over HTTP."""

import io
import json

import numpy as np
from PIL import Image

from boig_core.config import Data
from boig_core.data import dataset
from boig_core.data.fetch import Fetcher
from boig_core.data.images import StoredImage
from boig_core.data.posts import find_posts, read_posts
from boig_core.data.rejects import Rejected
from boig_core.storage import store


def test_posts_images_and_shards_on_s3(s3_bucket: str) -> None:
    bucket = f"{s3_bucket}/exports-and-shards"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, format="PNG")
    store.write_bytes(f"{bucket}/export/images/a.png", buffer.getvalue())
    row = {"id": "1", "account": "a", "timestamp": "2020-01-01", "text": "x" * 60, "image": "images/a.png", "likes": 3}
    store.write_bytes(f"{bucket}/export/posts.jsonl", json.dumps(row).encode())

    source = find_posts(f"{bucket}/export")
    [post], rejects = read_posts(source, Data(), 0)
    assert (source, rejects) == (f"{bucket}/export/posts.jsonl", [])
    wanted = [*post.images, f"{bucket}/export/images/a.png", "images/none.png"]
    relative, absolute, missing = Fetcher(f"{bucket}/export", Data()).fetch(wanted)
    assert relative == absolute
    assert isinstance(relative, StoredImage)
    assert relative.data == buffer.getvalue()
    assert isinstance(missing, Rejected)
    assert missing.code == "image_missing"

    [shard] = dataset.image_shards([relative], 64)
    entry = dataset.write_shard(shard, dataset.IMAGES, f"{bucket}/store/datasets/d")
    version = f"{bucket}/store/datasets/d/v1"
    assert dataset.shard_rows(version, entry) == 1
    assert list(dataset.shard_images(version, entry)) == [relative]
