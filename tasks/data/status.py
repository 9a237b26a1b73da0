"""How it stands with the current data version: `python -m flows data status`.

Costs one hash of the folder (1.5 s a gigabyte) and one question to the remote.
"""

import json
from pathlib import Path

from pydantic import ValidationError

from model.errors import DataError
from tasks.data.card import card_in, read_card
from tasks.data.dvc import (
    cache_folder,
    data_folder,
    default_remote,
    dvc,
    git,
    object_path,
    promised_version,
    require_repository,
    tracked_file,
)
from tasks.data.version import expected_files, hash_folder, named, version_of
from tasks.runtime.environment import report_folder, state_folder
from tasks.runtime.records import Record, Validation

UNSENT = ("new", "missing")


class Fact(Record):
    """One line of the status: what was asked, the answer, and whether it is as it should be."""

    what: str
    answer: str
    is_good: bool


def data_status() -> list[Fact]:
    """Return the facts about the version that ``data.dvc`` names.

    Raises:
        DataError: there is no ``data.dvc``, or it names no version.
    """
    tracked = tracked_file(data_folder())
    require_repository(tracked.parent)
    if not tracked.is_file():
        raise DataError(
            f"{tracked}: not there; restore it with `git checkout {tracked.name}`, or ingest a version"
        )
    version = promised_version(tracked)
    card = card_in(tracked.read_text(encoding="utf-8")) or read_card(version)
    name = f"{card.name}, {card.created}" if card else "no name"
    return [
        Fact(what="version", answer=f"{version} ({name})", is_good=True),
        _folder_fact(tracked, version),
        _git_fact(tracked),
        _remote_fact(tracked),
        _validation_fact(version),
    ]


def _folder_fact(tracked: Path, version: str) -> Fact:
    folder = data_folder()
    if not folder.is_dir():
        return Fact(what="folder", answer="not here; `python -m flows data pull`", is_good=False)
    found = hash_folder(folder)
    if version_of(found) == version:
        return Fact(
            what="folder", answer=f"just that: {len(found)} files, every MD5 right", is_good=True
        )
    expected = expected_files(cache_folder(tracked.parent), version)
    if expected is None:
        return Fact(
            what="folder", answer="differs, and DVC's cache does not know in what", is_good=False
        )
    changed = sorted(path for path in found if expected.get(path) != found[path])
    missing = sorted(set(expected) - set(found))
    parts = [
        f"{word} {named(paths)}"
        for word, paths in (("changed", changed), ("missing", missing))
        if paths
    ]
    way = (
        f"`dvc checkout --force {tracked.name}` goes back"
        if changed
        else "`python -m flows data pull`"
    )
    return Fact(what="folder", answer=f"{'; '.join(parts)}; {way}", is_good=False)


def _git_fact(tracked: Path) -> Fact:
    said = git("status", "--porcelain", "--", tracked.name, cwd=tracked.parent)
    if said is None:
        return Fact(what="git", answer="no git repository here", is_good=True)
    if said.strip():
        return Fact(
            what="git",
            answer=f"{tracked.name} is not committed; {commit_command('...')}",
            is_good=False,
        )
    return Fact(what="git", answer=f"{tracked.name} is committed", is_good=True)


def commit_command(message: str) -> str:
    """Return the command that makes a data version part of git's history."""
    tracked = tracked_file(data_folder())
    return f'git commit {tracked.name} -m "{message}"'


def _remote_fact(tracked: Path) -> Fact:
    remote = default_remote(tracked.parent)
    if remote is None:
        return Fact(
            what="remote", answer="none; `dvc remote add --default NAME URL`", is_good=False
        )
    unsent = (
        _unsent_to_folder(tracked, Path(remote.url))
        if remote.is_folder
        else _unsent_by_dvc(tracked)
    )
    if unsent is None:
        return Fact(what="remote", answer=f"{remote.url} does not answer", is_good=False)
    if unsent:
        return Fact(
            what="remote", answer=f"{remote.url} lacks {named(unsent)}; `dvc push`", is_good=False
        )
    return Fact(what="remote", answer=f"{remote.url} has all of it", is_good=True)


def _unsent_to_folder(tracked: Path, remote: Path) -> list[str] | None:
    """Look for each object; DVC itself believes that all are there once the list of files is."""
    version = promised_version(tracked)
    expected = expected_files(remote, version)
    if expected is None:
        return [f"the list of files, files/md5/{version[:2]}/{version[2:]}.dir"]
    return [path for path, md5 in expected.items() if not object_path(remote, md5).is_file()]


def _unsent_by_dvc(tracked: Path) -> list[str] | None:
    """Ask DVC, None where the remote does not answer."""
    done = dvc("status", "--cloud", "--json", tracked.name, cwd=tracked.parent)
    try:
        return sorted(
            path for path, state in dict(json.loads(done.stdout)).items() if state in UNSENT
        )
    except (ValueError, TypeError):
        return None


def _validation_fact(version: str) -> Fact:
    if read_card(version) is not None or _was_validated_by_a_run(version):
        return Fact(
            what="validated", answer=f"yes; reports in {report_folder(version)}", is_good=True
        )
    return Fact(
        what="validated", answer="not on this machine; `python -m flows validate`", is_good=False
    )


def _was_validated_by_a_run(version: str) -> bool:
    for path in (state_folder() / "runs").glob("*/validate/result.json"):
        try:
            if Validation.model_validate_json(path.read_bytes()).profiles == report_folder(version):
                return True
        except (OSError, ValidationError):
            continue
    return False
