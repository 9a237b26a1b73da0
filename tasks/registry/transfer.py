"""Files to and from MLflow's artifact store: file by file, each with time for its size.

A file that fails is sent again, up to three times, and large files that are there already stay, so
a registration or a download that was cut goes on where it stopped. Where MLflow proxies an object
store whose address this machine reaches, MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=true sends large
files in parts, past the proxy.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from tasks.pages.text import without_credentials
from tasks.registry.calls import OUTAGES, error_code, file_seconds, longer_calls
from tasks.runtime.log import run_logger

LARGE_BYTES = 8 << 20
PAUSES_S = (2, 10)


def upload_folder(client: MlflowClient, run_id: str, folder: Path, to: str) -> None:
    """Attach a folder to a run under the artifact path ``to``.

    A large file that is there with its size is not sent again: the caller names what holds other
    bytes differently.

    Raises:
        MlflowException, requests.RequestException: a file could not be sent, three times.
    """
    for file in filter(Path.is_file, sorted(folder.rglob("*"))):
        path = Path(to, file.parent.relative_to(folder)).as_posix()
        upload_file(client, run_id, file, path, is_kept=file.stat().st_size >= LARGE_BYTES)


def upload_file(
    client: MlflowClient, run_id: str, file: Path, folder: str, is_kept: bool = False
) -> None:
    """Attach a file under an artifact folder of a run.

    With ``is_kept`` one of that name and size that is there already stays.

    Raises:
        MlflowException, requests.RequestException: it could not be sent, three times.
    """
    size = file.stat().st_size
    there = (f"{folder}/{file.name}", size)

    def send() -> None:
        # A store that was slow to answer may have all of it.
        found = client.list_artifacts(run_id, folder) if is_kept else []
        if there in [(each.path, each.file_size) for each in found]:
            run_logger().info("%s: the artifact store has it", file.name)
        else:
            client.log_artifact(run_id, str(file), folder)

    with longer_calls(file_seconds(size), retries=0):
        _again(send, file.name)


def download_folder(uri: str, folder: Path) -> Path:
    """Return a copy of an artifact folder, made in ``folder``, or the artifact folder itself.

    The latter where it lies on this machine. A large file that an earlier call left with its size
    is not fetched again: the caller checks hashes. What the store no longer has is removed.

    Raises:
        MlflowException, requests.RequestException, OSError: a file could not be fetched, three
            times.
    """
    if urlsplit(uri).scheme in ("", "file"):
        local = Path(local_file_uri_to_path(uri))
        if not local.is_dir():
            raise FileNotFoundError(f"{local}: there is no such folder")
        return local

    repository = get_artifact_repository(uri)
    sizes = dict(_files(repository, None))
    if not sizes:
        raise FileNotFoundError(f"{uri}: the artifact store has no such files")
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in sizes:
            path.unlink()

    for name, size in sizes.items():
        local = folder / name
        if not local.resolve().is_relative_to(folder.resolve()):
            raise FileNotFoundError(f"{uri}: it names a file outside of its folder, {name}")
        if size < LARGE_BYTES or not local.is_file() or local.stat().st_size != size:
            local.parent.mkdir(parents=True, exist_ok=True)
            with longer_calls(file_seconds(size), retries=0):
                _again(partial(_fetch, repository, name, size, local), name)
    return folder


def _files(repository: ArtifactRepository, folder: str | None) -> Iterator[tuple[str, int]]:
    """Yield each file below a folder of the store with its size in bytes."""
    for found in repository.list_artifacts(folder):
        if found.is_dir:
            yield from _files(repository, found.path)
        else:
            yield found.path, found.file_size or 0


def _fetch(repository: ArtifactRepository, name: str, size: int, local: Path) -> None:
    # The one call of a store that asks for a file alone; `download_artifacts` lists it first.
    repository._download_file(name, str(local))
    came = local.stat().st_size
    if size and came != size:
        raise MlflowException(f"{name}: {came:,} of {size:,} bytes came")


def _again(transfer: Callable[[], None], name: str) -> None:
    """Transfer a file, after a pause once more where MLflow did not answer, or was cut off."""
    for pause_s in PAUSES_S:
        try:
            return transfer()
        except (MlflowException, requests.RequestException) as error:
            if error_code(error) not in OUTAGES:
                raise
            reason = without_credentials(str(error).splitlines()[0])[:200]
            run_logger().warning("%s: %s; it is sent again in %d s", name, reason, pause_s)
            time.sleep(pause_s)
    return transfer()
