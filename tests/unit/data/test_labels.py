"""Labels against plain reference implementations: percentiles and buckets by counting, splits by
walking from post to post."""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data, SplitBy, load_recipe
from boig_core.data import labels, selection

SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class One:
    """A post as far as labels read it; an image is the name of what it shows, and a letter for each
    near-duplicate of that."""

    id: str
    account: str = "a"
    moment: str = "2020"
    kpis: tuple[float | None, ...] = (50.0,)
    images: tuple[str, ...] = ("x",)
    held_out: bool = False


def label(
    posts: Iterable[One], data: Data, seed: int = 0
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """Samples by id, and rejects as (post, code)."""
    posts = list(posts)
    with tempfile.TemporaryDirectory() as scratch, selection.connect(Path(scratch), 64) as con:
        stored = [
            {
                "id": p.id,
                "account": p.account,
                "timestamp": p.moment,
                "kpis": p.kpis,
                "images": p.images,
                "held_out": p.held_out,
                "file": "f",
            }
            for p in posts
        ]
        con.register(
            "arrow", pa.Table.from_pylist(stored, con.sql("FROM candidate").to_arrow_table().schema)
        )
        con.execute("CREATE TABLE post AS SELECT * FROM arrow")
        shown = [
            {
                "post": p.id,
                "place": place,
                "reference": f"{p.id}-{place}",
                "sha256": name,
                "width": 8,
                "height": 8,
                "fingerprint": look(name),
            }
            for p in posts
            for place, name in enumerate(p.images, start=1)
        ]
        text = [(name, pa.string()) for name in ("post", "reference", "sha256", "fingerprint")]
        schema = pa.schema([*text, *((name, pa.int32()) for name in ("place", "width", "height"))])
        con.register("arrow", pa.Table.from_pylist(shown, schema))
        con.execute("CREATE TABLE image AS SELECT * FROM arrow")
        labels.label(con, data, seed)
        result = con.sql("FROM sample").to_arrow_table().to_pylist()
        rejects = con.execute("SELECT post, code FROM reject ORDER BY ALL").fetchall()
    return {sample["id"]: sample for sample in result}, rejects


def look(image: str) -> str:
    """A fingerprint that near-duplicates share but for one bit, and that others are far from."""
    bits = int(hashlib.sha256(image[:-1].encode()).hexdigest()[:16], 16) ^ (
        1 if image.endswith("'") else 0
    )
    return f"{bits:016x}808080"


KPIS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9) | st.floats(0, 1e12)), max_size=40
)


@settings(max_examples=25)
@given(rows=KPIS, floors=st.sampled_from([(20, 30, 40), (-1, -1, -1)]))
def test_percentiles_and_buckets_agree_with_counting(
    rows: list[tuple[str, float]], floors: tuple[float, float, float]
) -> None:
    posts = [
        One(str(i), account, kpis=(float(kpi),), images=(f"{i}-",))
        for i, (account, kpi) in enumerate(rows)
    ]
    result, rejects = label(posts, Data(floors=floors))
    assert (len(result), rejects) == (len(posts), [])
    for post in posts:
        own = [other.kpis[0] for other in posts if other.account == post.account]
        kpi = post.kpis[0]
        assert kpi is not None
        below = sum(k is not None and k < kpi for k in own) + own.count(kpi) / 2
        percentile = 100 * below / len(own)
        nr = 0 if percentile < 60 else 1 if percentile < 90 else 2
        assert result[post.id]["normalized"] == pytest.approx(percentile, abs=1e-4)
        assert result[post.id]["bucket"] == (
            ("low", "medium", "high")[nr] if kpi > floors[nr] else None
        )


def test_further_kpis_have_ranks_of_their_own_and_no_floors() -> None:
    posts = [
        One(str(i), kpis=(100.0 + i, None if i == 3 else 10.0 - i), images=(f"{i}-",))
        for i in range(10)
    ]
    result, _ = label(posts, Data(more_kpis=("shares",)))
    assert [result[str(i)]["bucket"] for i in range(10)] == ["low"] * 6 + ["medium"] * 3 + ["high"]
    assert result["3"]["more"] == []
    assert result["0"]["more"] == [
        {"nr": 2, "value": 10.0, "normalized": round(100 * 8.5 / 9, 4), "bucket": "high"}
    ]


def test_stock_photographs_fall_into_equal_thirds() -> None:
    posts = [
        One(str(i), "stock", kpis=(float((i * 37) % 300),), images=(f"{i}-",)) for i in range(300)
    ]
    result, _ = label(posts, load_recipe("stock").data)
    counts = [
        sum(sample["bucket"] == bucket for sample in result.values())
        for bucket in ("low", "medium", "high")
    ]
    assert counts == [100, 100, 100]


POSTS = st.lists(
    st.builds(
        One,
        id=st.uuids().map(str),
        account=st.sampled_from("abcdef"),
        moment=st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds")),
        images=st.lists(
            st.sampled_from([f"{i}{mark}" for i in range(40) for mark in ("-", "'")]),
            min_size=1,
            max_size=3,
            unique=True,
        ).map(tuple),
        held_out=st.sampled_from([False] * 9 + [True]),
    ),
    unique_by=lambda post: post.id,
    max_size=30,
)


@pytest.mark.parametrize("by", get_args(SplitBy))
@pytest.mark.parametrize("near", [3, None])
@settings(max_examples=15)
@given(posts=POSTS)
def test_splits_agree_with_walking_and_nothing_crosses(
    by: SplitBy, near: int | None, posts: list[One]
) -> None:
    data = Data(split_by=by, split=SHARES, near_duplicates=near, floors=(-1, -1, -1))
    result, rejects = label(posts[::-1], data)
    expected = splits_by_walking(posts, by, near)
    assert {sample["post"]: sample["split"] for sample in result.values()} == {
        name: split for name, split in expected.items() if split
    }
    assert rejects == sorted(
        (name, "image_repeated") for name, split in expected.items() if split is None
    )
    stored = defaultdict(set)
    for sample in result.values():
        stored[sample["sha256"] if near is None else sample["sha256"][:-1]].add(sample["split"])
        stored[sample["post"]].add(sample["split"])
    account = {post.id: post.account for post in posts}
    if by == "account":
        for sample in result.values():
            if sample["split"] != "held_out":
                stored[f"account {account[sample['post']]}"].add(sample["split"])
    assert all(len(splits) == 1 for splits in stored.values())


def splits_by_walking(posts: list[One], by: SplitBy, near: int | None) -> dict[str, str | None]:
    """The split of each post, in the plainest way."""

    def shown(post: One) -> set[str]:
        return {image if near is None else image[:-1] for image in post.images}

    def beside(one: One, other: One) -> bool:
        return bool(shown(one) & shown(other)) or (by == "account" and one.account == other.account)

    groups: list[list[One]] = []
    for post in posts:
        touched = [group for group in groups if any(beside(post, other) for other in group)]
        groups = [group for group in groups if group not in touched] + [
            [post, *(other for group in touched for other in group)]
        ]
    moments = sorted(post.moment for post in posts if not post.held_out)
    edges = (
        [moments[min(round(len(moments) * share), len(moments) - 1)] for share in (0.6, 0.8)]
        if moments
        else []
    )
    result: dict[str, str | None] = {}
    for group in groups:
        first = min(post.account if by == "account" else post.id for post in group)
        lot = (
            int.from_bytes(hashlib.sha256(f"0\0split\0{first}".encode()).digest()[:6], "big")
            / 2**48
        )
        for post in group:
            if post.held_out:
                result[post.id] = "held_out"
            elif any(other.held_out for other in group):
                result[post.id] = None
            elif by == "time":
                own, earliest = (
                    ("train", "validation", "test")[sum(moment >= edge for edge in edges)]
                    for moment in (post.moment, min(other.moment for other in group))
                )
                result[post.id] = own if own == earliest else None
            else:
                result[post.id] = (
                    "train" if lot < 0.6 else "validation" if lot < 0.6 + 0.2 else "test"
                )
    return result


def test_by_time_the_shares_hold_and_a_repeated_image_is_left_out() -> None:
    posts = [One(f"{i:02}", moment=f"2020-01-{i + 1:02}", images=(f"{i}-",)) for i in range(20)]
    data = Data(split_by="time", split=SHARES)
    result, _ = label(posts, data)
    assert [result[f"{i:02}"]["split"] for i in range(20)] == ["train"] * 12 + [
        "validation"
    ] * 4 + ["test"] * 4
    result, rejects = label(
        [*posts[:-1], One("19", moment="2020-01-20", images=("19-", "3'"))], data
    )
    assert (len(result), rejects) == (19, [("19", "image_repeated")])


@pytest.mark.parametrize("by", get_args(SplitBy))
def test_what_the_judge_learns_from_shares_no_image_with_any_other_split(by: SplitBy) -> None:
    posts = [
        One(f"{i:03}", f"a{i % 90}", moment=f"2020-01-{i % 28 + 1:02}", images=(f"{i // 2}-",))
        for i in range(180)
    ]
    result, _ = label(posts, Data(split_by=by, split=SHARES, judge=0.4, floors=(-1, -1, -1)))
    stored = defaultdict(set)
    for sample in result.values():
        stored[sample["sha256"]].add(sample["split"])
    assert all(len(splits) == 1 for splits in stored.values())
    assert {"judge", "train", "test"} <= set.union(*stored.values())


def test_splits_follow_the_shares_and_the_hash_stays() -> None:
    posts = [One(str(i), images=(f"{i}-",)) for i in range(4000)]
    result, _ = label(posts, Data())
    splits = [result[post.id]["split"] for post in posts]
    assert [
        splits.count(name) / len(posts) for name in ("train", "validation", "test")
    ] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert splits != [sample["split"] for sample in label(posts, Data(), seed=1)[0].values()]
    kept, _ = label(posts, Data(judge=0.25))
    drawn = [name for name in result if kept[name]["split"] == "judge"]
    assert len(drawn) / len(posts) == pytest.approx(0.25, abs=0.02)
    assert [result[name]["split"] for name in drawn].count("train") / len(drawn) == pytest.approx(
        0.8, abs=0.04
    )
    assert all(kept[name]["split"] == result[name]["split"] for name in result.keys() - set(drawn))
    # Pinned: a changed hash would move every post of every dataset.
    assert label([One("1000000007", images=("7-",))], Data())[0]["1000000007"]["split"] == "train"


def test_groups_name_what_looks_alike() -> None:
    result, _ = label(
        [One("1", images=("p-", "q-")), One("2", images=("p'",)), One("3", images=("r-",))], Data()
    )
    assert {name: sample["grp"] for name, sample in result.items()} == {
        "1": "p'",
        "1-2": None,
        "2": "p'",
        "3": None,
    }
    result, _ = label(
        [One("1", images=("p-",)), One("2", images=("p'",)), One("3", images=("p-",))],
        Data(near_duplicates=None),
    )
    assert {name: sample["grp"] for name, sample in result.items()} == {
        "1": "p-",
        "2": None,
        "3": "p-",
    }


def test_negatives_are_unrelated_low_and_for_training_alone() -> None:
    posts = [
        One(
            str(i),
            account="ab"[i % 2],
            kpis=(50.0 + i // 2,),
            images=(f"{i}-",),
            held_out=i % 10 == 9,
        )
        for i in range(400)
    ]
    data = Data(negatives=0.25)
    result, _ = label(posts, data)
    plain = {name: sample for name, sample in result.items() if not sample["negative"]}
    negatives = [sample for sample in result.values() if sample["negative"]]
    worthy = [
        sample
        for sample in plain.values()
        if sample["split"] == "train" and sample["bucket"] in {"high", "medium"}
    ]
    assert len(negatives) == pytest.approx(
        0.25 * len(worthy), abs=4 * (0.25 * 0.75 * len(worthy)) ** 0.5
    )
    account = {post.images[0]: post.account for post in posts}
    trained = {sample["sha256"] for sample in plain.values() if sample["split"] == "train"}
    for sample in negatives:
        assert sample["id"] == f"{sample['post']}~negative"
        assert (sample["split"], sample["bucket"]) == ("train", "low")
        assert 5 <= sample["kpi"] <= 15
        assert sample["normalized"] == 0
        assert sample["sha256"] in trained
        assert account[sample["sha256"]] != account[plain[sample["post"]]["sha256"]]
    assert len({sample["sha256"] for sample in negatives}) > len(negatives) / 2
    assert label(posts[::-1], data)[0] == result
    assert not label(posts[:1], Data(negatives=1.0, floors=(-1, -1, -1), split=(0.98, 0.01, 0.01)))[
        1
    ]


def test_two_posts_never_share_a_sample_id() -> None:
    result, rejects = label([One("q", images=("1-", "2-")), One("q-2", images=("3-",))], Data())
    assert sorted((sample["id"], sample["post"]) for sample in result.values()) == [
        ("q", "q"),
        ("q-2", "q-2"),
    ]
    assert rejects == [("q", "duplicate_id")]
