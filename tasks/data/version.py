"""Data versions: what DVC says a folder of pairs is, and proof that the folder is just that.

DVC checks out a damaged object without a word, so every file is hashed after a pull and compared
with what ``data.dvc`` promises; no run trains on anything else. A damaged copy in DVC's cache is
replaced by the remote's; what cannot be restored is named, file by file. Hashing costs about 1.5 s
a gigabyte.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.config.load import RunConfig
from model.errors import DataError, ServiceError, typed
from model.storage.files import file_digest
from tasks.data.dvc import (
    DVC_FILE,
    DVC_TEMPORARY,
    NAMED_FILES,
    TrackedFolder,
    current_pairs,
    data_folder,
    default_remote,
    expected_files,
    first_paths,
    hash_folder,
    object_path,
    version_of,
)
from tasks.data.swap import repair_swap
from tasks.runtime.locks import DATA, locked, register_reader, release_reader
from tasks.runtime.log import run_logger
from tasks.runtime.records import DataVersion
from tasks.runtime.stage import service_task


@service_task("data version")
def materialise_data(config: RunConfig) -> DataVersion:
    """Make sure that the config's folder of pairs is on disk and return its data version.

    Raises:
        DataError: the folder is missing, cannot be pulled, or differs from what ``data.dvc``
        promises.
        ServiceError: a DVC remote on the network does not answer.
    """
    folder = data_folder(config.data.path)
    is_tracked = folder == data_folder() or TrackedFolder(folder).tracked.is_file()
    return materialise(folder) if is_tracked else untracked_version(folder)


def materialise(folder: Path) -> DataVersion:
    """Make sure that a tracked folder is on disk, byte for byte what its ``.dvc`` file promises.

    One process at a time does this; others wait for it.

    Raises:
        DataError: the folder cannot be pulled, or differs from what the ``.dvc`` file promises.
        ServiceError: a DVC remote on the network does not answer.
    """
    pairs = TrackedFolder(folder)
    tracked = pairs.tracked
    with locked(DATA, f"the check of {tracked.name}", wait=True):
        if pairs == current_pairs():
            repair_swap()
        if not tracked.is_file():
            raise DataError(
                f"{tracked}: not there, so there is no data version; "
                f"restore it with `git checkout {tracked.name}`, "
                f"track your own pairs with `{typed('ingest')}`, or name a folder with --data"
            )

        promised, found = pairs.promised(), hash_folder(folder)
        if version_of(found) != promised:
            found = _restore(pairs, found)
        return DataVersion(folder=folder, version=promised, is_tracked=True, file_md5=found)


@contextmanager
def reading_pairs(data: DataVersion, what: str) -> Iterator[None]:
    """Keep an ingest from replacing the tracked pairs while the block reads them.

    Raises:
        DataError: they were replaced since they were checked.
    """
    pairs = current_pairs()
    if data.folder != pairs.folder:
        yield
        return

    with locked(DATA, what, wait=True):
        if pairs.promised() != data.version:
            raise DataError(
                f"{data.folder}: a new data version came in meanwhile; run again to use it"
            )
        reader = register_reader(what)
    try:
        yield
    finally:
        release_reader(reader)


def untracked_version(folder: Path) -> DataVersion:
    """Return the data version of a folder that DVC does not track, as `dvc add` would name it.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pairs; name one with --data or data.path")
    found = hash_folder(folder)
    return DataVersion(folder=folder, version=version_of(found), is_tracked=False, file_md5=found)


def _restore(pairs: TrackedFolder, found: dict[str, str]) -> dict[str, str]:
    """Pull what is missing or was damaged in DVC's cache, and return the MD5 of every file.

    Raises:
        DataError: a person changed a file, or neither cache nor remote has the promised bytes.
        ServiceError: a DVC remote on the network does not answer.
    """
    if found:
        _refuse_changes(pairs, found)
    for leftover in pairs.folder.rglob("*.tmp"):
        if DVC_TEMPORARY.match(leftover.name):
            leftover.unlink()
    _drop_damaged(pairs.cache, [f"{pairs.promised()}.dir"])

    # The first pull may come out of a damaged cache; the second one comes from the remote.
    wrong = _pull_and_check(pairs)
    if wrong:
        run_logger().warning(
            "DVC's cache was damaged (%s); pulling these files again", first_paths(wrong)
        )
        wrong = _pull_and_check(pairs)
    if wrong:
        raise _damaged_remote(pairs, wrong)
    return hash_folder(pairs.folder)


def _refuse_changes(pairs: TrackedFolder, found: dict[str, str]) -> None:
    """Refuse to touch files that a person changed.

    What went missing or belongs to another version can be had again.

    Raises:
        DataError: a file is new or changed, and DVC's cache holds no copy of it; or neither cache
        nor remote has the list of files.
        ServiceError: a DVC remote on the network does not answer.
    """
    promised = pairs.promised()
    expected = expected_files(pairs.cache, promised)
    if expected is None:
        _drop_damaged(pairs.cache, [f"{promised}.dir"])
        pairs.pull(into_cache_alone=True)
        expected = expected_files(pairs.cache, promised)
    if expected is None:
        raise _damaged_remote(pairs, {DVC_FILE: f"{promised}.dir"})

    changed = sorted(path for path in found if expected.get(path) != found[path])
    _drop_damaged(pairs.cache, [found[path] for path in changed])
    lost = [path for path in changed if not object_path(pairs.cache, found[path]).is_file()]
    if lost:
        name, tracked = pairs.folder.name, pairs.tracked.name
        raise DataError(
            f"{pairs.folder}: differs from the data version in {tracked} ({first_paths(lost)}); "
            f"`dvc add {name}` makes it a new version, `dvc checkout --force {tracked}` goes back"
        )


def _pull_and_check(pairs: TrackedFolder) -> dict[str, str]:
    """Pull, and return the promised MD5 of files that came out wrong.

    They are removed with the objects that they came from, so that another pull may help.

    Raises:
        DataError: a local remote lacks the objects.
        ServiceError: a remote on the network failed.
    """
    promised = pairs.promised()
    try:
        pairs.pull()
    except (DataError, ServiceError) as error:
        # Name the files whose bytes did not come, where their list can be read.
        remote = default_remote(pairs.tracked.parent)
        folders = [Path(remote.url)] if remote is not None and remote.is_folder else []
        listings = (expected_files(store, promised) for store in (pairs.cache, *folders))
        listing = next(filter(None, listings), {})
        lacking = [
            path for path, md5 in listing.items() if not object_path(pairs.cache, md5).is_file()
        ]
        missing = f"; missing: {first_paths(lacking)}; {_push_again(promised)}" if lacking else ""
        raise type(error)(f"{error}{missing}") from error

    found = hash_folder(pairs.folder)
    if version_of(found) == promised:
        return {}

    expected = expected_files(pairs.cache, promised) or {}
    wrong = {path: md5 for path, md5 in expected.items() if found.get(path) != md5}
    listed = f"{promised}.dir"
    damaged = _drop_damaged(pairs.cache, [listed, *sorted(set(wrong.values()))])
    for path in found:
        if expected.get(path) != found[path]:
            (pairs.folder / path).unlink()
    return wrong or dict.fromkeys(damaged or [listed], listed)


def _push_again(promised: str, damaged: Iterable[str] = ()) -> str:
    """Return how a remote gets an object again.

    DVC sends nothing that is there, nor what belongs to a list that is.
    """
    objects = [f"files/md5/{md5[:2]}/{md5[2:]}" for md5 in (*damaged, f"{promised}.dir")]
    return f"delete there {', '.join(objects)}, then type `dvc push` where the version is whole"


def _drop_damaged(store: Path, digests: Iterable[str]) -> list[str]:
    """Remove objects of DVC's cache whose bytes are not their name's, and return their names.

    They are pulled again then.
    """
    damaged = []
    for digest in digests:
        stored = object_path(store, digest)
        if stored.is_file() and file_digest(stored, "md5") != digest.removesuffix(".dir"):
            stored.unlink()
            damaged.append(digest)
    return damaged


def _damaged_remote(pairs: TrackedFolder, wrong: dict[str, str]) -> DataError:
    """Return the error of a remote whose bytes came out wrong again; names files and objects."""
    remote = default_remote(pairs.tracked.parent)
    damaged = [md5 for md5 in wrong.values() if not md5.endswith(".dir")]
    return DataError(
        f"{pairs.tracked}: the DVC remote {remote.url if remote else '(no default)'} holds damaged "
        f"bytes for {first_paths(wrong)}; {_push_again(pairs.promised(), damaged[:NAMED_FILES])}"
    )
