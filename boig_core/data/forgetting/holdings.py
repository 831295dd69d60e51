"""What a store holds of an account or a post: versions of datasets, shards, what perception saw,
and what was made from these versions.

Only looks. A version holds a post if a shard of posts that it names does, or a reject of it, or a
shard of images that it names has an image that nobody else's post shows. What was made from such a
version is found by lineage, manifest by manifest. Leaves out: erasing (see `erasure`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from boig_core.data import dataset, tables
from boig_core.data.forgotten import Subject, fields_of
from boig_core.errors import CorruptError, StoreUnavailableError
from boig_core.storage import commit, store
from boig_core.storage.check import Contents, side_by_side
from boig_core.storage.job import Stage
from boig_core.storage.manifest import Manifest
from boig_core.storage.withdrawn import WITHDRAWN

if TYPE_CHECKING:
    import pyarrow as pa

_SHARD: Final = re.compile(
    r"datasets/[^/]+/blobs/(?P<family>posts|images)-(?P<name>[0-9a-f]{16})\.parquet"
)
_SEEN: Final = re.compile(r"perception/[^/]+/(?:perception|part)-[0-9a-f]{16}\.parquet")
_MAKERS: Final = (Stage.INGEST, Stage.PERCEIVE)
"""Stages that make versions of datasets."""
_TAKES_OVER: Final = ("previous", "retry")
"""Inputs by which an ingestion builds on a version; perceive copies its input ``dataset``."""


class Holdings:
    """One look at a store; all paths are below its root.

    Args:
        root: of the store.
        subject: what is to be forgotten.
        names: of the datasets to look at; None: all.

    Attributes:
        there: names of all datasets.
        names: of those that are looked at.
        commits: by attempt; None: it was fenced.
        jobs: content of each job file by its attempt.

    Raises:
        CorruptError: a manifest, a commit, a job or a file of a dataset cannot be read, so that
            what it holds is not known.
    """

    def __init__(self, root: str, subject: Subject, names: Collection[str] | None = None) -> None:
        self.contents = Contents(root)
        self.commits, self.jobs = self.contents.commits(), self.contents.jobs()
        # Without a commit that could be read, a version would pass for one that does not count.
        if self.contents.faults:
            fault = self.contents.faults[0]
            raise CorruptError(self.contents.uri(fault.place), fault.rule, "see `boig store check`")
        self.root, self.subject = self.contents.root, subject
        paths = (path for path in self.contents.sizes if path.startswith("datasets/"))
        self.there = frozenset(_name_of(path) for path in paths)
        self.names = self.there if names is None else frozenset(names)

    @cached_property
    def outputs(self) -> dict[str, Manifest]:
        """Manifests of what was committed, withdrawn outputs included."""
        return {
            folder: manifest
            for folder, manifest in self.contents.manifests.items()
            if self.contents.uri(folder)
            in ((self.commits.get(self.attempt_of(folder)) or {}).get("outputs", {})).values()
        }

    def attempt_of(self, folder: str) -> str:
        """The attempt that an output's manifest names."""
        named = self.contents.path(self.contents.manifests[folder].commit)
        return named.removesuffix(f"/{commit.COMMIT}")

    def is_withdrawn(self, folder: str) -> bool:
        """Whether an output was withdrawn."""
        return f"{folder}/{WITHDRAWN}" in self.contents.sizes

    @cached_property
    def versions(self) -> dict[str, Manifest]:
        """Committed versions of all datasets whose files can be read."""
        return {
            folder: manifest
            for folder, manifest in self.outputs.items()
            if manifest.kind == dataset.KIND and not self.is_withdrawn(folder)
        }

    def withdrawn_versions(self) -> list[str]:
        """Versions, among the datasets that are looked at, that were withdrawn, whenever that
        was."""
        return [
            folder
            for folder, manifest in self.outputs.items()
            if manifest.kind == dataset.KIND
            and _name_of(folder) in self.names
            and self.is_withdrawn(folder)
        ]

    @cached_property
    def holders(self) -> tuple[str, ...]:
        """Versions, among the datasets that are looked at, that hold something of the subject."""
        dirty = {*self.dirty_posts, *self.dirty_images}
        return tuple(
            folder
            for folder in self.versions
            if _name_of(folder) in self.names
            and (dirty & self.named_by([folder]) or folder in self._by_rejects)
        )

    @cached_property
    def dirty_posts(self) -> dict[str, frozenset[str]]:
        """Shards of posts that hold some of the subject's, with their ids."""

        def matching(path: str) -> frozenset[str]:
            table = self._columns(path, ["id", "account"])
            names = zip(table["id"].to_pylist(), table["account"].to_pylist(), strict=True)
            return frozenset(str(name[0]) for name in names if self.subject.matches(*name))

        shards = self._shards(tables.POSTS)
        ids = dict(zip(shards, side_by_side(matching, shards), strict=True))
        return {path: posts for path, posts in ids.items() if posts}

    @cached_property
    def dirty_images(self) -> tuple[str, ...]:
        """Shards of images that hold some of `images`."""
        if not self.images:
            return ()

        def holds(path: str) -> bool:
            return not self.images.isdisjoint(self._columns(path, ["sha256"])["sha256"].to_pylist())

        shards = self._shards(tables.IMAGES)
        return tuple(
            p for p, dirty in zip(shards, side_by_side(holds, shards), strict=True) if dirty
        )

    @cached_property
    def images(self) -> frozenset[str]:
        """Images of the subject's posts that no other post shows, in any dataset."""
        theirs, others = self._images
        return frozenset(theirs - others)

    @property
    def posts(self) -> int:
        """How many posts of the subject there are."""
        return len({post for posts in self.dirty_posts.values() for post in posts})

    @cached_property
    def seen(self) -> tuple[str, ...]:
        """Files in which perception has kept what it saw in these images, and that no version names
        which stays."""
        if not self.images:
            return ()
        staying = self.named_by(set(self.versions) - set(self.holders))
        paths = [p for p in self.contents.sizes if _SEEN.fullmatch(p) and p not in staying]

        def holds(path: str) -> bool:
            return not self.images.isdisjoint(self._columns(path, ["sha256"])["sha256"].to_pylist())

        return tuple(p for p, dirty in zip(paths, side_by_side(holds, paths), strict=True) if dirty)

    def named_by(self, folders: Iterable[str]) -> set[str]:
        """Paths of the files that outputs' manifests name."""
        return {path for folder in folders for path, _ in self.contents.entries(folder)}

    def made_from(self, folders: Iterable[str]) -> set[str]:
        """Outputs that were made from these, and from those in turn; not versions of datasets, each
        of which has posts of its own."""
        children: defaultdict[str, list[str]] = defaultdict(list)
        for folder, manifest in self.outputs.items():
            for digest in manifest.lineage.inputs.values() if manifest.kind != dataset.KIND else ():
                children[digest].append(folder)
        descendants: set[str] = set()
        waiting = [self.outputs[folder].digest() for folder in folders]
        while waiting:
            for child in children[waiting.pop()]:
                if child not in descendants:
                    descendants.add(child)
                    waiting.append(self.outputs[child].digest())
        return descendants

    def readers(self, folders: Collection[str]) -> dict[str, str]:
        """Attempts whose job reads one of these outputs, with their stage."""
        return {
            attempt: str(job.get("stage"))
            for attempt, job in self.jobs.items()
            if not set(folders).isdisjoint(job["inputs"].values())
        }

    def open_makers(self) -> list[str]:
        """Attempts that could still commit a version of one of the datasets."""
        return [
            attempt
            for attempt, job in self.jobs.items()
            if attempt not in self.commits
            and job.get("stage") in _MAKERS
            and _dataset_of(job) in self.names
        ]

    def heads(self) -> list[str]:
        """Of the holders those whose posts no later version has taken over: each needs a successor,
        or what others have posted would be lost. A version and what perceive made of it count as
        one."""
        newest: dict[str, str] = {}
        for folder in sorted(self.holders, key=self.age):
            newest[self._base(folder)] = folder
        return [
            folder for base, folder in newest.items() if not self._heirs(base) & set(self.versions)
        ]

    def successor(self, folder: str) -> str | None:
        """The newest version that has taken over a version's posts and holds none of the
        subject's; None: there is none."""
        heirs = self._heirs(self._base(folder)) & set(self.versions)
        return max(heirs - set(self.holders), key=self.age, default=None)

    def _heirs(self, base: str) -> set[str]:
        """Versions that were built on one, directly or by way of others."""
        heirs, waiting = set[str](), [base]
        while waiting:
            below = [heir for heir in self._built_on[waiting.pop()] if heir not in heirs]
            heirs.update(below)
            waiting += [self._base(heir) for heir in below]
        return heirs

    @cached_property
    def _built_on(self) -> Mapping[str, list[str]]:
        """Versions, and what perceive made of them, by the version that each was built on."""
        built_on: defaultdict[str, list[str]] = defaultdict(list)
        for folder, manifest in self.outputs.items():
            if manifest.kind == dataset.KIND:
                for base in self._bases(self._base(folder), _TAKES_OVER):
                    built_on[base].append(folder)
        return built_on

    def age(self, folder: str) -> tuple[float, str]:
        """When an output's manifest was written, and its name."""
        return self._modified[f"{folder}/manifest.json"], folder

    @cached_property
    def _modified(self) -> dict[str, float]:
        return {file.path: file.modified for file in self.contents.files}

    def _base(self, folder: str) -> str:
        """The version of which perceive made this one, or itself."""
        while (parent := next(self._bases(folder, ("dataset",)), None)) is not None:
            folder = parent
        return folder

    def _bases(self, folder: str, names: Collection[str]) -> Iterator[str]:
        """Versions that this one names by these inputs, each by its base."""
        inputs = self.outputs[folder].lineage.inputs
        for digest in (inputs[name] for name in names if name in inputs):
            for parent in self._by_digest[digest]:
                yield parent if "dataset" in names else self._base(parent)

    @cached_property
    def _by_digest(self) -> Mapping[str, list[str]]:
        by_digest: defaultdict[str, list[str]] = defaultdict(list)
        for folder, manifest in self.outputs.items():
            if manifest.kind == dataset.KIND:
                by_digest[manifest.digest()].append(folder)
        return by_digest

    def _shards(self, family: str) -> list[str]:
        """Shards of the datasets that are looked at."""
        matches = (_SHARD.fullmatch(path) for path in self.contents.sizes)
        return [
            m[0] for m in matches if m and m["family"] == family and _name_of(m[0]) in self.names
        ]

    @cached_property
    def _images(self) -> tuple[set[str], set[str]]:
        """Images of the subject's posts, and those of all others."""
        theirs, others = set[str](), set[str]()
        columns = ["post", "post_shard", "image", "negative"]
        # Of a version that was withdrawn its tables may still be there, if an erasure was cut.
        folders = [f for f in self.outputs if f"{f}/{tables.LABELS}" in self.contents.sizes]
        for folder in folders:
            blobs = f"datasets/{_name_of(folder)}/blobs/{tables.POSTS}"
            for row in self._columns(f"{folder}/{tables.LABELS}", columns).to_pylist():
                ids = self.dirty_posts.get(f"{blobs}-{row['post_shard']}.parquet", frozenset())
                # The image of a negative is another post's, which has a row of its own.
                if not row["negative"]:
                    (theirs if row["post"] in ids else others).add(row["image"])
        return theirs, others

    @cached_property
    def _by_rejects(self) -> frozenset[str]:
        """Versions with a reject of the subject's."""

        def holds(folder: str) -> bool:
            rows = self._columns(f"{folder}/{tables.REJECTS}", ["post", "row"]).to_pylist()
            return any(self._matches(row["post"], fields_of(row["row"])) for row in rows)

        folders = [folder for folder in self.versions if _name_of(folder) in self.names]
        verdicts = zip(folders, side_by_side(holds, folders), strict=True)
        return frozenset(folder for folder, does in verdicts if does)

    def _matches(self, post: str | None, fields: Mapping[str, Any]) -> bool:
        named = {key: None if fields.get(key) is None else str(fields[key]) for key in fields}
        return self.subject.matches(post, None) or self.subject.matches(
            named.get("id"), named.get("account")
        )

    def read(self, path: str) -> pa.Table:
        """A Parquet file of the store.

        Raises:
            CorruptError: it cannot be read.
        """
        return self._columns(path, None)

    def _columns(self, path: str, names: list[str] | None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        filesystem, local = store.filesystem(self.contents.uri(path))
        try:
            return pq.read_table(local, columns=names, filesystem=filesystem, use_threads=False)
        except (pa.ArrowInvalid, pa.ArrowKeyError, FileNotFoundError) as exc:
            raise CorruptError(
                self.contents.uri(path), "cannot be read", "see `boig store check`"
            ) from exc
        except OSError as exc:
            raise StoreUnavailableError(
                self.contents.uri(path), f"cannot be read ({exc})", "try again"
            ) from exc


def _name_of(path: str) -> str:
    """Name of the dataset that a path lies in."""
    return path.split("/")[1]


def _dataset_of(job: Mapping[str, Any]) -> str | None:
    recipe = job.get("recipe")
    data = recipe.get("data") if isinstance(recipe, dict) else None
    return data.get("name") if isinstance(data, dict) else None
