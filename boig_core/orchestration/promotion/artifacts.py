"""``boig://`` for MLflow: models of the registry are read from boig's store, by
`mlflow.pyfunc.load_model` as by any call of MLflow.

MLflow finds this class by the entry point ``mlflow.artifact_repository``. A version's source names
no folder that could be opened as it stands: the version is looked up again, so that its tags say
where the model lies, and a signed promotion is asked for where the operator gives a key (see
`registry`). Leaves out: writing: stages alone publish.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.orchestration.promotion import registry
from boig_core.storage import manifest, paths, store
from boig_core.storage.manifest import FileEntry

_LARGE: Final = 2**20
"""Bytes from which on a file is linked: MLflow reads no small file through a link."""


class StoreArtifactRepository(ArtifactRepository):
    """The folder of one registered model, to be read."""

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders directly below a path of the model's folder."""
        above = f"{path.strip('/')}/" if path else ""
        children: dict[str, FileInfo] = {}
        for entry in self._entries(self._location()):
            if entry.path.startswith(above):
                name, _, rest = entry.path.removeprefix(above).partition("/")
                size = None if rest else entry.size
                children[name] = FileInfo(above + name, bool(rest), size)
        return list(children.values())

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """A local folder, or file, of the model, verified; returns its path.

        Where the store is a folder and no destination is given, links to its large files take the
        place of copies.
        """
        uri = self._location()
        target = Path(dst_path or tempfile.mkdtemp(prefix="boig-model-"))
        path_below = artifact_path.strip("/")
        entries = [
            entry
            for entry in self._entries(uri)
            if not path_below or entry.path == path_below or entry.path.startswith(f"{path_below}/")
        ]
        if not entries:
            raise NotFoundInStoreError(
                f"{uri}/{path_below}", "is no file of the model", "list the model's files"
            )
        linked = dst_path is None and not store.is_s3(uri)
        for entry in entries:
            local = paths.below(target, entry.path)
            if linked and entry.size >= _LARGE:
                file = paths.below(Path(store.normalize(uri)), entry.path)
                manifest.require_content(file, entry, str(file))
                local.parent.mkdir(parents=True, exist_ok=True)
                local.symlink_to(file)
            else:
                manifest.fetch_file(uri, entry, local)
        return str(target / path_below)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        uri = self._location()
        entries = {entry.path: entry for entry in self._entries(uri)}
        manifest.fetch_file(uri, entries[remote_file_path], Path(local_path))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:
        """Refused."""
        _refuse(self.artifact_uri)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refused."""
        _refuse(self.artifact_uri)

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Refused."""
        _refuse(self.artifact_uri)

    def _location(self) -> str:
        """Where the model lies, by the tags of the version that has this source."""
        with registry.registry() as client:
            versions: list[Any] = client.search_model_versions(f"name='{registry.MODEL}'")
        for version in versions:
            if version.source == self.artifact_uri:
                return registry.verified(version.tags)["uri"]
        raise InputError(
            self.artifact_uri,
            f"is the source of no version of {registry.MODEL}",
            f"load models:/{registry.MODEL}@champion",
        )

    @staticmethod
    def _entries(uri: str) -> list[FileEntry]:
        """Files of the model; blobs that lie elsewhere are none of it."""
        files = manifest.read_manifest(uri).files
        return [entry for entry in files if not entry.path.startswith("../")]


def _refuse(uri: str) -> NoReturn:
    raise InputError(uri, "is written by boig's stages alone", "publish a new version by a run")
