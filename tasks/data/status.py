"""The state of the current data version: `commerce-clip data status`.

Costs one hash of the folder (1.5 s a gigabyte) and one question to the remote.
"""

import json
from pathlib import Path
from typing import NamedTuple

from model.errors import DataError, typed
from tasks.data.card import card_in, read_card
from tasks.data.dvc import (
    TrackedFolder,
    current_pairs,
    default_remote,
    dvc,
    expected_files,
    first_paths,
    hash_folder,
    object_path,
    require_repository,
    version_of,
)
from tasks.runtime.environment import report_folder, state_folder
from tasks.runtime.lineage import git
from tasks.runtime.records import Validation


class Fact(NamedTuple):
    """One line of the status: what was asked, the answer, and whether it is as it should be."""

    what: str
    answer: str
    is_good: bool


def data_status() -> list[Fact]:
    """Return the facts about the version that ``data.dvc`` names.

    Raises:
        DataError: there is no ``data.dvc``, or it names no version.
    """
    pairs = current_pairs()
    tracked = pairs.tracked
    require_repository(tracked.parent)
    if not tracked.is_file():
        raise DataError(
            f"{tracked}: not there; restore it with `git checkout {tracked.name}`, "
            "or ingest a version"
        )

    version = pairs.promised()
    card = card_in(tracked.read_text(encoding="utf-8")) or read_card(version)
    name = f"{card.name}, {card.created}" if card else "no name"
    reports = report_folder(version)
    by_runs = map(Validation.read, (state_folder() / "runs").glob("*/validate/result.json"))
    is_validated = bool(read_card(version)) or any(
        found and found.profiles == reports for found in by_runs
    )
    elsewhere = f"not on this machine; `{typed('validate')}`"

    return [
        Fact("version", f"{version} ({name})", True),
        _folder_fact(pairs),
        _git_fact(pairs),
        _remote_fact(pairs),
        Fact(
            "validated", f"yes; reports in {reports}" if is_validated else elsewhere, is_validated
        ),
    ]


def _folder_fact(pairs: TrackedFolder) -> Fact:
    if not pairs.folder.is_dir():
        return Fact("folder", f"not here; `{typed('data pull')}`", False)
    version, found = pairs.promised(), hash_folder(pairs.folder)
    if version_of(found) == version:
        return Fact("folder", f"just that: {len(found)} files, every MD5 right", True)
    expected = expected_files(pairs.cache, version)
    if expected is None:
        return Fact("folder", "differs, and DVC's cache does not know in what", False)

    changed = sorted(path for path in found if expected.get(path) != found[path])
    missing = sorted(set(expected) - set(found))
    parts = [
        f"{word} {first_paths(paths)}"
        for word, paths in (("changed", changed), ("missing", missing))
        if paths
    ]
    # A pull refuses to touch what a person changed.
    way = (
        f"`dvc checkout --force {pairs.tracked.name}` goes back"
        if changed
        else f"`{typed('data pull')}`"
    )
    return Fact("folder", f"{'; '.join(parts)}; {way}", False)


def _git_fact(pairs: TrackedFolder) -> Fact:
    name = pairs.tracked.name
    uncommitted = git("status", "--porcelain", "--", name, cwd=pairs.tracked.parent)
    if uncommitted is None:
        return Fact("git", "no git repository here", True)
    if uncommitted.strip():
        return Fact("git", f"{name} is not committed; {commit_command('...')}", False)
    return Fact("git", f"{name} is committed", True)


def commit_command(message: str) -> str:
    """Return the command that makes a data version part of git's history."""
    return f'git commit {current_pairs().tracked.name} -m "{message}"'


def _remote_fact(pairs: TrackedFolder) -> Fact:
    remote = default_remote(pairs.tracked.parent)
    if remote is None:
        return Fact("remote", "none; `dvc remote add --default NAME URL`", False)

    # DVC itself believes that all objects are in a folder once the list of files is.
    if remote.is_folder:
        version, store = pairs.promised(), Path(remote.url)
        expected = expected_files(store, version)
        unsent = [f"the list of files, files/md5/{version[:2]}/{version[2:]}.dir"]
        if expected is not None:
            unsent = [
                path for path, md5 in expected.items() if not object_path(store, md5).is_file()
            ]
    else:
        cwd = pairs.tracked.parent
        done = dvc("status", "--cloud", "--json", pairs.tracked.name, cwd=cwd)
        try:
            states = dict(json.loads(done.stdout))
        except (ValueError, TypeError):
            return Fact("remote", f"{remote.url} does not answer", False)
        unsent = sorted(path for path, state in states.items() if state in ("new", "missing"))

    if unsent:
        return Fact("remote", f"{remote.url} lacks {first_paths(unsent)}; `dvc push`", False)
    return Fact("remote", f"{remote.url} has all of it", True)
