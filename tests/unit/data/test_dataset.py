"""A dataset written and read back: labels, images, descriptions, and what happens when a file was tampered with."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boig_core.config import Data
from boig_core.data import dataset
from boig_core.data.images import StoredImage, normalize, resize
from boig_core.data.inspect import diff, verify_dataset
from boig_core.data.posts import Post
from boig_core.data.rejects import Rejected
from boig_core.data.samples import card, make_samples
from boig_core.errors import CorruptError, InputError
from boig_core.storage import commit, store
from boig_core.storage.manifest import FileEntry, Lineage, publish_folder
from boig_core.vocabulary import Description


def image(value: int) -> StoredImage:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(value).integers(0, 255, (8, 8, 3), np.uint8)).save(buffer, format="PNG")
    return normalize(buffer.getvalue(), 1000)


def post(name: str, kpi: float, *references: str, account: str = "a") -> Post:
    return Post(int(name, 36), name, account, "brand", "2020-01-01T00:00:00Z", "text", ("word",), kpi, references)


IMAGES: dict[str, StoredImage | Rejected] = {str(i): image(i) for i in range(6)} | {"bad": Rejected("image_missing", "bad does not exist")}
POSTS = [post("p", 100, "0"), post("q", 50, "1", "2"), post("r", 25, "bad", "3"), post("s", 5, "bad"), post("t", 70, "4", account="b")]
SEEN = Description({"Red": 0.6, "Blue": 0.4}, {"warm": 0.6, "neutral": 0.0, "cool": 0.4}, {"ball": (1.0, 2.0, 3.5, 4.0)})


def publish(root: str, scratch: Path, *, perceived: bool = False, posts: Sequence[Post] = POSTS) -> str:
    samples, rejects = make_samples(posts, IMAGES, Data(), seed=0)
    stored = [found for found in IMAGES.values() if isinstance(found, StoredImage)]
    uri, attempt = store.join(root, "datasets", "d", "v1"), store.join(root, "runs", "attempt-1")
    # One image a shard, so that readers have to look into several.
    blobs = [dataset.write_shard(shard, dataset.IMAGES, store.join(root, "datasets", "d")) for shard in dataset.image_shards(stored, 1e-6)]
    assert len(blobs) == 6
    if perceived:
        table = dataset.perception_table({one.sha256: SEEN for one in stored}, {one.sha256: (8, 8) for one in stored})
        blobs.append(dataset.write_shard(table, dataset.PERCEPTION, store.join(root, "datasets", "d")))
    scratch.mkdir(exist_ok=True)
    (scratch / dataset.LABELS).write_bytes(dataset.parquet_bytes(dataset.labels_table(samples)))
    (scratch / dataset.REJECTS).write_bytes(dataset.parquet_bytes(dataset.rejects_table(rejects)))
    lineage = Lineage(inputs={}, recipe="r", code="c")
    meta = {"perceived": perceived}
    publish_folder(scratch, uri, kind="dataset", lineage=lineage, commit=store.join(attempt, commit.COMMIT), meta=meta, blobs=tuple(blobs))
    commit.commit(attempt, {"dataset": uri}, {})
    return uri


def test_samples_come_from_posts_with_a_good_image() -> None:
    samples, rejects = make_samples(POSTS, IMAGES, Data(), seed=0)
    assert [sample.id for sample in samples] == ["p", "q", "q-2", "r-2", "t"]
    by_id = {sample.id: sample for sample in samples}
    assert by_id["q"].split == by_id["q-2"].split
    # Percentiles over p, q, r of account a, and t alone; s has no image and must not move them.
    assert [round(by_id[name].kpi_normalized, 1) for name in ("r-2", "q", "p", "t")] == [16.7, 50.0, 83.3, 50.0]
    assert [by_id[name].bucket for name in ("r-2", "q", "p", "t")] == ["low", "low", "medium", "low"]
    assert [(reject.post, reject.code) for reject in rejects] == [("r", "image_missing"), ("s", "image_missing")]
    numbers = card(samples, rejects, posts=5)
    assert (numbers["posts"], numbers["rejected"], numbers["images"], numbers["samples"]) == (5, 2, 5, 5)
    assert sum(sum(splits.values()) for splits in numbers["buckets"].values()) == 5
    assert make_samples(POSTS[::-1], IMAGES, Data(), seed=0)[0] == samples


def test_two_posts_never_share_a_sample_id() -> None:
    samples, rejects = make_samples([post("q", 50, "1", "2"), replace(post("q", 60, "3"), id="q-2")], IMAGES, Data(), seed=0)
    assert [(sample.id, sample.post) for sample in samples] == [("q", "q"), ("q-2", "q-2")]
    assert [reject.code for reject in rejects] == ["duplicate_id"]


def test_read_back(tmp_path: Path) -> None:
    uri = publish(str(tmp_path / "store"), tmp_path / "scratch")
    samples, _ = make_samples(POSTS, IMAGES, Data(), seed=0)
    assert dataset.read_samples(uri) == samples
    found = dataset.read_images(uri, [samples[0].image, samples[2].image], side=4)
    assert list(found) == sorted([samples[0].image, samples[2].image])
    assert {pixels.shape for pixels in found.values()} == {(4, 4, 3)}
    assert len(dataset.read_images(uri)) == 6
    one = next(iter(IMAGES.values()))
    assert isinstance(one, StoredImage)
    with Image.open(io.BytesIO(one.data)) as expected:
        assert np.array_equal(dataset.read_images(uri, [one.sha256])[one.sha256], np.asarray(expected))
        assert np.array_equal(dataset.read_images(uri, [one.sha256], side=4)[one.sha256], resize(expected, 4))


def test_descriptions_after_perceive(tmp_path: Path) -> None:
    uri = publish(str(tmp_path / "store"), tmp_path / "scratch", perceived=True)
    assert [sample.description for sample in dataset.read_samples(uri)] == [SEEN] * 5


def test_an_unknown_image_is_an_error(tmp_path: Path) -> None:
    uri = publish(str(tmp_path / "store"), tmp_path / "scratch")
    with pytest.raises(InputError, match="is not in"):
        dataset.read_images(uri, ["0" * 64])


def test_an_altered_shard_is_an_error(tmp_path: Path) -> None:
    uri = publish(str(tmp_path / "store"), tmp_path / "scratch")
    shard = next((tmp_path / "store" / "datasets" / "d" / "blobs").glob("images-*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="differs from its manifest"):
        dataset.read_images(uri)


def test_a_whole_dataset_is_counted_and_a_torn_one_is_named(tmp_path: Path) -> None:
    uri = publish(str(tmp_path / "store"), tmp_path / "scratch", perceived=True)
    found = verify_dataset(uri)
    assert (found["files"], found["samples"], found["images"]) == (9, 5, 6)
    for name in (dataset.LABELS, dataset.REJECTS):
        kept = (Path(uri) / name).read_bytes()
        (Path(uri) / name).write_bytes(kept[:50] + bytes([kept[50] ^ 1]) + kept[51:])
        with pytest.raises(CorruptError, match="differs from its manifest"):
            verify_dataset(uri)
        (Path(uri) / name).write_bytes(kept)
    next((tmp_path / "store" / "datasets" / "d" / "blobs").glob("perception-*")).unlink()
    with pytest.raises(CorruptError, match="has none"):
        verify_dataset(uri)


def test_what_changed_between_two_datasets(tmp_path: Path) -> None:
    old = publish(str(tmp_path / "old"), tmp_path / "a")
    later = [*(replace(one, kpi=one.kpi + 1) if one.id == "p" else one for one in POSTS if one.id != "t"), post("u", 90, "5", account="c")]
    new = publish(str(tmp_path / "new"), tmp_path / "b", posts=later)
    assert diff(old, new) == {"added": ["u"], "removed": ["t"], "changed": {"kpi": ["p"]}}
    assert diff(new, new) == {"added": [], "removed": [], "changed": {}}


def test_equal_images_make_equal_shards_in_any_order_and_are_written_once(tmp_path: Path) -> None:
    stored = [image(i) for i in range(5)]
    entries: list[list[FileEntry]] = [
        [dataset.write_shard(shard, dataset.IMAGES, str(tmp_path)) for shard in dataset.image_shards(order, 64)]
        for order in (stored, stored[::-1] + stored)
    ]
    assert entries[0] == entries[1]
    assert len(list((tmp_path / "blobs").iterdir())) == 1
    assert dataset.shard_rows(str(tmp_path / "v"), entries[0][0]) == 5
