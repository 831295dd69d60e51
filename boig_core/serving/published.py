"""A published model and what it was made by: its files, its recipe, and the models that its reward
asks.

Everything hangs on the model's manifest: it names the commit of the attempt that made the model,
beside which the attempt's job says by which recipe and of which inputs. Leaves out: which model is
champion (the registry knows, see `boig_core.orchestration.promotion`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from boig_core.config import Recipe
from boig_core.errors import InputError
from boig_core.rewards.calibration import Calibration, read_calibration
from boig_core.storage import manifest, paths, places, store
from boig_core.storage.job import JOB, Job, read_job
from boig_core.vocabulary import Sample

KIND: Final = "sd"
_LISTED: Final = 8
"""Accounts that an error lists."""


@dataclass(frozen=True)
class PublishedModel:
    """A committed image generator.

    Attributes:
        uri: its folder.
        record: its manifest.
        job: of the attempt that made it.
        scratch: where what has to be downloaded goes, for as long as the model is used.
    """

    uri: str
    record: manifest.Manifest
    job: Job
    scratch: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was made by."""
        return self.job.recipe

    @property
    def place(self) -> str:
        """Its path below the root of its store, which tells no bucket and no folder."""
        return places.place_of(self.uri, self.job.store)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its manifest: what it is, wherever it lies."""
        return self.record.digest()

    def folder(self) -> Path:
        """Its verified files on this machine."""
        return _verified(self.uri, self.scratch / "model", KIND)

    def input_folder(self, name: str, kind: str) -> Path:
        """Verified files of an input that it was made of, on this machine.

        Raises:
            InputError: it was made without this input.
        """
        if name not in self.job.inputs:
            raise InputError(
                self.uri,
                f"was made without a {name}",
                "give a model that the stage ddpo has aligned",
            )
        return _verified(self.job.input(name), self.scratch / name, kind)

    @cached_property
    def calibration(self) -> Calibration:
        """What HIGH and LOW are for each account.

        Raises:
            InputError: as `input_folder`.
        """
        return read_calibration(self.input_folder("calibration", "calibration"))

    def require_account(self, account: str) -> None:
        """Refuse an account that the model was not aligned for.

        Raises:
            InputError: the training posts hold none of it; or as `input_folder`.
        """
        known = sorted(self.calibration.conditions.accounts)
        if account not in known:
            more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            raise InputError(
                f"--account {account}",
                "is no account of the posts that this model was trained on",
                f"give one of {', '.join(known[:_LISTED])}{more}",
            )

    def new_post(self, text: str, account: str, day: datetime | None = None) -> Sample:
        """A post that is not published yet, as prompts tell it: by the account's own company, in
        the size that most of its images have.

        Args:
            text: of the post.
            account: one of `require_account`.
            day: when it is to be published; default: now.

        Raises:
            InputError: the account has no image in the dataset.
        """
        from boig_core.data.dataset import read_samples

        own = [s for s in read_samples(self.job.input("dataset")) if s.account == account]
        if not own:
            raise InputError(f"--account {account}", "has no image in the dataset", "give another")
        (company, width, height), _ = Counter(
            (s.company, s.width, s.height) for s in own
        ).most_common(1)[0]
        return Sample(
            id="new",
            post="new",
            account=account,
            company=company,
            timestamp=(day or datetime.now(UTC)).isoformat(timespec="seconds"),
            text=text,
            keywords=(),
            # No prompt tells a post's own KPI where another one is aimed at.
            kpi=0.0,
            kpi_normalized=0.0,
            bucket=None,
            split="test",
            image="",
            width=width,
            height=height,
        )


def open_published(uri: str, scratch: Path) -> PublishedModel:
    """The model whose folder is given.

    Raises:
        NotFoundInStoreError: there is none.
        CorruptError: it is no image generator, or no attempt has committed it.
    """
    location = store.normalize(uri)
    record = manifest.read_manifest(location, kind=KIND)
    job = read_job(store.join(record.commit.rsplit("/", 1)[0], JOB))
    return PublishedModel(location, record, job, scratch)


def require_text(text: str) -> str:
    """The text of a post, without what surrounds it.

    Raises:
        InputError: there is nothing in it, or it cannot be written as UTF-8.
    """
    if not text.strip():
        raise InputError("the text of the post", "is empty", "say what the post says")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InputError("the text of the post", "is not valid UTF-8", "type it again") from exc
    return text.strip()


def _verified(uri: str, scratch: Path, kind: str) -> Path:
    """Folder of an output whose files are what its manifest says: its own, if that is on this
    machine, else a download.

    Raises:
        CorruptError: a file is not.
    """
    if store.is_s3(uri):
        manifest.fetch_folder(uri, scratch, kind=kind)
        return scratch
    folder = Path(store.normalize(uri))
    for entry in manifest.read_manifest(uri, kind=kind).files:
        if not entry.path.startswith("../"):
            file = paths.below(folder, entry.path)
            manifest.require_content(file, entry, str(file))
    return folder
