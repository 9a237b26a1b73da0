"""Data versions: what DVC says a folder of pairs is, and proof that the folder is just that.

DVC checks out a damaged object without a word, so every file is hashed after a pull and compared
with what ``data.dvc`` promises; no run trains on anything else. A damaged copy in DVC's cache is
replaced by the remote's; what cannot be healed is named, file by file. Hashing costs about 1.5 s a
gigabyte.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.config.load import RunConfig
from model.errors import DataError, ServiceError
from model.storage.files import file_digest
from tasks.data.dvc import (
    DVC_FILE,
    cache_folder,
    data_folder,
    default_remote,
    fetch,
    object_path,
    promised_version,
    pull,
    tracked_file,
)
from tasks.data.swap import heal
from tasks.runtime.locks import DATA, locked, register_reader, release_reader
from tasks.runtime.log import run_logger
from tasks.runtime.records import DataVersion
from tasks.runtime.stage import service_task

NAMED_FILES = 3
# What a killed `dvc pull` leaves beside the file that it was writing.
DVC_TEMPORARY = re.compile(r"\A\.[A-Za-z0-9_-]{22}\.tmp\Z")


@service_task("data version")
def materialise_data(config: RunConfig) -> DataVersion:
    """Make sure that the config's folder of pairs is on disk and return its data version.

    Raises:
        DataError: the folder is missing, cannot be pulled, or differs from what ``data.dvc``
        promises.
        ServiceError: a DVC remote on the network does not answer.
    """
    folder = data_folder(config.data.path)
    if folder == data_folder() or tracked_file(folder).is_file():
        return materialise(folder)
    return untracked_version(folder)


def materialise(folder: Path) -> DataVersion:
    """Make sure that a tracked folder is on disk, byte for byte what its ``.dvc`` file promises.

    One process at a time does this; others wait for it.

    Raises:
        DataError: the folder cannot be pulled, or differs from what the ``.dvc`` file promises.
        ServiceError: a DVC remote on the network does not answer.
    """
    tracked = tracked_file(folder)
    with locked(DATA, f"the check of {tracked.name}", wait=True):
        if folder == data_folder():
            heal()
        if not tracked.is_file():
            raise DataError(
                f"{tracked}: not there, so there is no data version; restore it with `git checkout {tracked.name}`, "
                "track your own pairs with `python -m flows ingest`, or name a folder with --data"
            )
        promised = promised_version(tracked)
        found = hash_folder(folder)
        if version_of(found) != promised:
            found = _restore(folder, tracked, promised, found)
        return DataVersion(folder=folder, version=promised, is_tracked=True, file_md5=found)


@contextmanager
def reading(data: DataVersion, what: str) -> Iterator[None]:
    """Keep an ingest from replacing the tracked pairs while the block reads them.

    Raises:
        DataError: they were replaced since they were checked.
    """
    if data.folder != data_folder():
        yield
        return
    with locked(DATA, what, wait=True):
        if promised_version(tracked_file(data.folder)) != data.version:
            raise DataError(
                f"{data.folder}: a new data version came in meanwhile; run again to use it"
            )
        reader = register_reader(what)
    try:
        yield
    finally:
        release_reader(reader)


def untracked_version(folder: Path) -> DataVersion:
    """Return the data version of a folder that DVC does not track: the hash that `dvc add` would
    give it.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pairs; name one with --data or data.path")
    found = hash_folder(folder)
    return DataVersion(folder=folder, version=version_of(found), is_tracked=False, file_md5=found)


def hash_folder(folder: Path) -> dict[str, str]:
    """Return the MD5 (DVC's hash) of every file under a folder, by its path relative to the folder."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not DVC_TEMPORARY.match(path.name)
    )
    return {path.relative_to(folder).as_posix(): file_digest(path, "md5") for path in files}


def version_of(file_md5: dict[str, str]) -> str:
    """Return DVC's hash of a folder (without its ``.dir`` suffix).

    Source: DVC stores a folder as the JSON list of its files' MD5 and paths, named by that list's
    MD5.
    """
    entries = [{"md5": file_md5[path], "relpath": path} for path in sorted(file_md5)]
    return hashlib.md5(
        json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False
    ).hexdigest()


def _restore(folder: Path, tracked: Path, promised: str, found: dict[str, str]) -> dict[str, str]:
    """Pull what is missing, heal what DVC's cache has damaged, and return the MD5 of every file.

    Raises:
        DataError: a person changed a file, or neither cache nor remote has the promised bytes.
        ServiceError: a DVC remote on the network does not answer.
    """
    cache = cache_folder(tracked.parent)
    if found:
        _refuse_changes(folder, tracked, found, _listing(tracked, promised, cache), cache)
    for leftover in folder.rglob("*.tmp"):
        if DVC_TEMPORARY.match(leftover.name):
            leftover.unlink()
    drop_damaged(cache, [f"{promised}.dir"])
    wrong = _pull_and_check(folder, tracked, promised, cache)
    if wrong:
        run_logger().warning(
            "DVC's cache was damaged (%s); pulling these files again", named(wrong)
        )
        wrong = _pull_and_check(folder, tracked, promised, cache)
    if wrong:
        raise _damaged_remote(tracked, promised, wrong)
    return hash_folder(folder)


def _pull_and_check(folder: Path, tracked: Path, promised: str, cache: Path) -> dict[str, str]:
    """Pull; remove files that came out wrong, with the objects that they came from, and return their promised MD5."""
    try:
        pull(tracked)
    except (DataError, ServiceError) as error:
        raise type(error)(f"{error}{_lacking(tracked, cache, promised)}") from error
    found = hash_folder(folder)
    if version_of(found) == promised:
        return {}
    expected = expected_files(cache, promised) or {}
    wrong = {path: md5 for path, md5 in expected.items() if found.get(path) != md5}
    damaged = drop_damaged(cache, [f"{promised}.dir", *sorted(set(wrong.values()))])
    for path in found:
        if expected.get(path) != found[path]:
            (folder / path).unlink()
    return wrong or dict.fromkeys(damaged or [f"{promised}.dir"], f"{promised}.dir")


def _lacking(tracked: Path, cache: Path, promised: str) -> str:
    """Name the files whose bytes a pull could not get, where their list can be read."""
    remote = default_remote(tracked.parent)
    stores = [cache, *([Path(remote.url)] if remote is not None and remote.is_folder else [])]
    expected = next(filter(None, (expected_files(store, promised) for store in stores)), {})
    lacking = [path for path, md5 in expected.items() if not object_path(cache, md5).is_file()]
    return f"; missing: {named(lacking)}; {_push_anew([], promised)}" if lacking else ""


def _push_anew(damaged: list[str], promised: str) -> str:
    """Say how a remote gets an object again: DVC sends nothing that is there, nor what belongs to a list that is."""
    objects = ", ".join(
        f"files/md5/{md5[:2]}/{md5[2:]}" for md5 in [*damaged[:NAMED_FILES], f"{promised}.dir"]
    )
    return f"delete there {objects}, then type `dvc push` where the version is whole"


def _listing(tracked: Path, promised: str, cache: Path) -> dict[str, str]:
    """Return the promised MD5 of each file, fetched where DVC's cache does not have the list."""
    expected = expected_files(cache, promised)
    if expected is None:
        drop_damaged(cache, [f"{promised}.dir"])
        fetch(tracked)
        expected = expected_files(cache, promised)
    if expected is None:
        raise _damaged_remote(tracked, promised, {DVC_FILE: f"{promised}.dir"})
    return expected


def _refuse_changes(
    folder: Path, tracked: Path, found: dict[str, str], expected: dict[str, str], cache: Path
) -> None:
    """Refuse to touch files that a person changed; what went missing or belongs to another version
    can be had again.

    Raises:
        DataError: a file is new or changed, and DVC's cache holds no copy of it.
    """
    changed = sorted(path for path in found if expected.get(path) != found[path])
    drop_damaged(cache, [found[path] for path in changed])
    changed = [path for path in changed if not object_path(cache, found[path]).is_file()]
    if changed:
        raise DataError(
            f"{folder}: differs from the data version in {tracked.name} ({named(changed)}); "
            f"`dvc add {folder.name}` makes it a new version, `dvc checkout --force {tracked.name}` goes back"
        )


def expected_files(cache: Path, version: str) -> dict[str, str] | None:
    """Return the promised MD5 of each file from DVC's cache, or None where the cache does not hold the list, whole."""
    try:
        listed = object_path(cache, f"{version}.dir").read_bytes()
        listing = {entry["relpath"]: entry["md5"] for entry in json.loads(listed)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return listing if version_of(listing) == version else None


def drop_damaged(cache: Path, digests: list[str]) -> list[str]:
    """Remove the objects of DVC's cache whose bytes are not their name's, so that they are pulled again; name them."""
    damaged = []
    for digest in digests:
        stored = object_path(cache, digest)
        if stored.is_file() and file_digest(stored, "md5") != digest.removesuffix(".dir"):
            stored.unlink()
            damaged.append(digest)
    return damaged


def _damaged_remote(tracked: Path, promised: str, wrong: dict[str, str]) -> DataError:
    remote = default_remote(tracked.parent)
    damaged = [md5 for md5 in wrong.values() if not md5.endswith(".dir")]
    return DataError(
        f"{tracked}: the DVC remote {remote.url if remote else '(no default)'} holds damaged bytes "
        f"for {named(wrong)}; {_push_anew(damaged, promised)}"
    )


def named(paths: dict[str, str] | list[str]) -> str:
    """Return the first few paths, for a sentence."""
    return ", ".join(list(paths)[:NAMED_FILES]) + (", …" if len(paths) > NAMED_FILES else "")
