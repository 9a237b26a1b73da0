"""Put a staged folder in the place of ``data/`` so that a kill costs nothing but another run.

Two renames and a `dvc add`, with a journal written before the first: whoever finds a journal takes
the old version back where ``data.dvc`` does not name the new one yet, and finishes the job where it
does (DECISIONS 19). The caller holds the lock DATA throughout, and a `dvc add` that outlives its
parent keeps it.
Costs DVC's own pass over the new bytes: one read to hash them, one copy into its cache.
"""

import shutil
from pathlib import Path

from model.errors import DataError
from model.storage.files import atomic_write, fsync_folder, write_failure
from model.storage.sealed import fault_point
from tasks.data.card import VersionCard, annotate, write_version_card
from tasks.data.dvc import current_pairs
from tasks.runtime.environment import state_folder
from tasks.runtime.log import run_logger
from tasks.runtime.records import Record


class Journal(Record):
    """What `repair_swap` must know about a replacement that has begun."""

    card: VersionCard
    had_folder: bool
    tracked_before: str | None


def replace_data(staged: Path, card: VersionCard) -> None:
    """Make a staged folder the tracked one and have DVC add it; on an error the old one is back.

    Raises:
        DataError: DVC could not add it, or gave it another version than the card's.
        CheckpointError: the disk is full or a folder cannot be written.
    """
    repair_swap()
    pairs = current_pairs()
    folder, tracked = pairs.folder, pairs.tracked
    journal = Journal(
        card=card,
        had_folder=folder.is_dir(),
        tracked_before=tracked.read_text(encoding="utf-8") if tracked.is_file() else None,
    )

    try:
        incoming = _beside(folder, "incoming")
        shutil.move(staged, incoming)  # a rename, unless the state folder lies on another disk
        journal.write(_journal_path())
        fault_point("ingest:before_swap")
        if journal.had_folder:
            folder.rename(_beside(folder, "outgoing"))
        fault_point("ingest:between_renames")
        incoming.rename(folder)
        fsync_folder(folder.parent)
        fault_point("ingest:after_swap")
        pairs.add()
        fault_point("ingest:after_add")
    except OSError as error:
        raise write_failure(folder, error) from error
    finally:
        repair_swap()

    named = pairs.promised_or_none()
    if named != card.version:
        raise DataError(
            f"{folder}: `dvc add` made it version {named}, expected {card.version}; "
            "was it changed meanwhile?"
        )


def is_swapping() -> bool:
    """Return whether a replacement is under way, or was interrupted."""
    return _journal_path().exists()


def repair_swap() -> None:
    """Finish or undo a replacement that was interrupted; the caller holds DATA."""
    pairs = current_pairs()
    outgoing = _beside(pairs.folder, "outgoing")
    shutil.rmtree(_beside(pairs.folder, "incoming"), ignore_errors=True)
    journal = Journal.read(_journal_path())
    if journal is None:
        return

    # A person may have checked out another version since; then only the old folder goes.
    named = pairs.promised_or_none()
    if named == journal.card.version:
        annotate(pairs.tracked, journal.card)
        write_version_card(journal.card)
    elif named is None or pairs.tracked.read_text(encoding="utf-8") == journal.tracked_before:
        run_logger().warning("taking back the unfinished ingest %s", journal.card.name)
        if outgoing.is_dir() or not journal.had_folder:
            shutil.rmtree(pairs.folder, ignore_errors=True)
        if outgoing.is_dir():
            outgoing.rename(pairs.folder)

        if journal.tracked_before is None:
            pairs.tracked.unlink(missing_ok=True)
        else:
            with atomic_write(pairs.tracked) as file:
                file.write(journal.tracked_before.encode())

    fault_point("ingest:before_cleaning")
    shutil.rmtree(outgoing, ignore_errors=True)
    _journal_path().unlink(missing_ok=True)


def _journal_path() -> Path:
    return state_folder() / "ingest" / "swap.json"


def _beside(folder: Path, role: str) -> Path:
    """Return where a folder waits that is not in place: beside it, for a rename needs one disk."""
    return folder.with_name(f".{folder.name}.{role}")
