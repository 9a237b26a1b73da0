"""Put a staged folder in the place of ``data/``, so that a kill at any moment costs nothing but
another run.

Two renames and a `dvc add`, with a journal written before the first: whoever finds a journal takes
the old version back where ``data.dvc`` does not name the new one yet, and finishes the job where it
does. The caller holds the lock DATA throughout, and a `dvc add` that outlives its parent keeps it.
Costs DVC's own pass over the new bytes: one read to hash them, one copy into its cache.
"""

import shutil
from pathlib import Path

from pydantic import ValidationError

from model.errors import DataError
from model.storage.files import atomic_write, fsync_folder, write_failure
from model.storage.sealed import fault_point
from tasks.data.card import VersionCard, annotate, write_card
from tasks.data.dvc import add, data_folder, tracked_file, version_in
from tasks.runtime.environment import state_folder
from tasks.runtime.log import run_logger
from tasks.runtime.records import Record


class Journal(Record):
    """What `heal` must know about a replacement that has begun."""

    card: VersionCard
    had_folder: bool
    tracked_before: str | None


def replace_data(staged: Path, card: VersionCard) -> None:
    """Make a staged folder the tracked one and have DVC add it; on any error the old version is
    back.

    Raises:
        DataError: DVC could not add it, or gave it another version than the card's.
        CheckpointError: the disk is full or a folder cannot be written.
    """
    heal()
    folder = data_folder()
    tracked = tracked_file(folder)
    before = tracked.read_text(encoding="utf-8") if tracked.is_file() else None
    journal = Journal(card=card, had_folder=folder.is_dir(), tracked_before=before)
    try:
        shutil.move(staged, _incoming())  # a rename, unless the state folder lies on another disk
        with atomic_write(_journal_path()) as file:
            file.write(journal.model_dump_json(indent=2).encode())
        fault_point("ingest:before_swap")
        if journal.had_folder:
            folder.rename(_outgoing())
        fault_point("ingest:between_renames")
        _incoming().rename(folder)
        fsync_folder(folder.parent)
        fault_point("ingest:after_swap")
        add(folder)
        fault_point("ingest:after_add")
    except OSError as error:
        raise write_failure(folder, error) from error
    finally:
        heal()
    named = _named_version(tracked)
    if named != card.version:
        raise DataError(
            f"{folder}: `dvc add` made it version {named}, expected {card.version}; was it changed meanwhile?"
        )


def heal() -> None:
    """Finish or undo a replacement that was interrupted; the caller holds DATA."""
    shutil.rmtree(_incoming(), ignore_errors=True)
    journal = _read_journal()
    if journal is None:
        return
    tracked = tracked_file(data_folder())
    named = _named_version(tracked)
    if named == journal.card.version:
        annotate(tracked, journal.card)
        write_card(journal.card)
    elif named is None or tracked.read_text(encoding="utf-8") == journal.tracked_before:
        run_logger().warning("taking back the unfinished ingest %s", journal.card.name)
        _take_back(journal, tracked)
    fault_point("ingest:before_cleaning")
    shutil.rmtree(_outgoing(), ignore_errors=True)
    _journal_path().unlink(missing_ok=True)


def _take_back(journal: Journal, tracked: Path) -> None:
    folder = data_folder()
    if _outgoing().is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        _outgoing().rename(folder)
    elif not journal.had_folder:
        shutil.rmtree(folder, ignore_errors=True)
    if journal.tracked_before is None:
        tracked.unlink(missing_ok=True)
    else:
        with atomic_write(tracked) as file:
            file.write(journal.tracked_before.encode())


def _named_version(tracked: Path) -> str | None:
    """Return the version that a ``.dvc`` file names, or None where it is missing or half-written."""
    try:
        return version_in(tracked.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_journal() -> Journal | None:
    try:
        return Journal.model_validate_json(_journal_path().read_bytes())
    except (OSError, ValidationError):
        return None


def _journal_path() -> Path:
    return state_folder() / "ingest" / "swap.json"


def _incoming() -> Path:
    """Return where the new folder waits, beside ``data/``, because a rename needs the same disk."""
    return _beside("incoming")


def _outgoing() -> Path:
    return _beside("outgoing")


def _beside(role: str) -> Path:
    folder = data_folder()
    return folder.with_name(f".{folder.name}.{role}")
