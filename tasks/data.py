"""Data versions: what DVC says a folder of pairs is, and proof that the folder is just that.

DVC checks out a damaged cache object without a word, so every file is hashed after a pull and compared with what
``data.dvc`` promises; no run trains on anything else. Hashing costs about 1.5 s a gigabyte.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import yaml

from model.config import RunConfig
from model.errors import DataError, ServiceError
from model.files import file_digest
from tasks.environment import ROOT
from tasks.records import DataVersion
from tasks.stage import service_task

DVC_FILE = "data.dvc"
PULL_TIMEOUT_S = 24 * 3600


@service_task("data version")
def materialise_data(config: RunConfig) -> DataVersion:
    """Make sure that the config's folder of pairs is on disk and return its data version.

    Raises:
        DataError: the folder is missing, cannot be pulled, or differs from what ``data.dvc`` promises.
        ServiceError: a DVC remote on the network does not answer.
    """
    folder = (ROOT / config.data.path).resolve()
    tracked = folder.with_name(f"{folder.name}.dvc")
    if not tracked.is_file():
        return untracked_version(folder)
    promised = promised_version(tracked)
    is_fresh = not folder.is_dir()
    found = {} if is_fresh else hash_folder(folder)
    if version_of(found) != promised:
        if not is_fresh:
            _refuse_changes(folder, tracked, promised, found)
        pull(tracked)
        found = hash_folder(folder)
    if version_of(found) != promised:
        raise DataError(
            f"{folder}: `dvc pull` left other bytes than {tracked.name} promises, so DVC's cache or remote is damaged; "
            f"remove {folder} and {_cache_folder(tracked)} and run again, or push the data version anew"
        )
    return DataVersion(folder=folder, version=promised, is_tracked=True, file_md5=found)


def untracked_version(folder: Path) -> DataVersion:
    """Return the data version of a folder that DVC does not track: the hash that `dvc add` would give it."""
    if folder == ROOT / "data":
        raise DataError(
            f"{folder.parent / DVC_FILE}: not there, so there is no data version; restore it with "
            f"`git checkout {DVC_FILE}`, track your own pairs with `dvc add data`, or name a folder with --data"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pairs; name one with --data or data.path")
    found = hash_folder(folder)
    return DataVersion(folder=folder, version=version_of(found), is_tracked=False, file_md5=found)


def hash_folder(folder: Path) -> dict[str, str]:
    """Return the MD5 (DVC's hash) of every file under a folder, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path, "md5") for path in files}


def version_of(file_md5: dict[str, str]) -> str:
    """Return DVC's hash of a folder (without its ``.dir`` suffix).

    Source: DVC stores a folder as the JSON list of its files' MD5 and paths, named by that list's MD5.
    """
    entries = [{"md5": file_md5[path], "relpath": path} for path in sorted(file_md5)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def promised_version(tracked: Path) -> str:
    """Return the data version that a ``.dvc`` file names.

    Raises:
        DataError: the file is no ``.dvc`` file of a folder.
    """
    try:
        outs = yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"]
        digest = str(outs[0]["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        raise DataError(
            f"{tracked}: not a .dvc file with one output; restore it with `git checkout {tracked.name}`"
        ) from None
    if not digest.endswith(".dir"):
        raise DataError(
            f"{tracked}: tracks a file, expected a folder of pairs; run `dvc add {tracked.stem}` on the folder"
        )
    return digest.removesuffix(".dir")


def pull(tracked: Path) -> None:
    """Run ``dvc pull`` for one ``.dvc`` file.

    Raises:
        DataError: a local remote lacks the objects.
        ServiceError: a remote on the network failed.
    """
    done = _dvc("pull", tracked.name, cwd=tracked.parent)
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())[-300:]
    sentence = (
        f"{tracked}: `dvc pull` failed ({said}); check the remote with `dvc remote list`, "
        "and that the data version was pushed with `dvc push`"
    )
    raise ServiceError(sentence) if _has_network_remote(tracked.parent) else DataError(sentence)


def _refuse_changes(folder: Path, tracked: Path, promised: str, found: dict[str, str]) -> None:
    """Refuse to touch files that a person changed; files that only went missing can be pulled again.

    Raises:
        DataError: a file is new or changed.
    """
    expected = _expected_files(tracked, promised) or {}
    changed = sorted(path for path in found if expected.get(path) != found[path])
    if changed:
        raise DataError(
            f"{folder}: differs from the data version in {tracked.name} "
            f"({', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}); "
            f"`dvc add {folder.name}` makes it a new version, `dvc checkout --force {tracked.name}` goes back"
        )


def _expected_files(tracked: Path, promised: str) -> dict[str, str] | None:
    """Return the promised MD5 of each file from DVC's cache, or None where the cache does not hold the list."""
    listing = _cache_folder(tracked) / "files" / "md5" / promised[:2] / f"{promised[2:]}.dir"
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cache_folder(tracked: Path) -> Path:
    return Path(_dvc("cache", "dir", cwd=tracked.parent).stdout.strip())


def _has_network_remote(cwd: Path) -> bool:
    return "://" in _dvc("remote", "list", cwd=cwd).stdout


def _dvc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PULL_TIMEOUT_S, check=False)
