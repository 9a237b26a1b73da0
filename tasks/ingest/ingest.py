"""Make a new data version of a drop of pairs, or of lines that a person corrected.

The drop is staged and validated beside the current version; only then is ``data/`` replaced
(`tasks.data.swap`), the version pushed and announced. A refused drop leaves no trace but its
reports. Costs five passes over the new bytes: copy, validation, DVC's hash, DVC's copy, push.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect.events import emit_event

from model.config.load import RunConfig
from model.config.sections import DataConfig
from model.errors import DataError
from model.storage.files import atomic_write
from tasks.data.card import EVENT_FILE, SAMPLE_NAME, SplitRows, VersionCard, card_in, read_card
from tasks.data.dvc import (
    TrackedFolder,
    current_pairs,
    default_remote,
    is_inside_git,
    require_repository,
    version_of,
)
from tasks.data.history import version_of_name
from tasks.data.swap import repair_swap, replace_data
from tasks.data.version import materialise
from tasks.ingest.feed import split_rule
from tasks.ingest.repair import stage_repaired
from tasks.ingest.staging import Drop, Staged, require_name, stage_drop, staging_folder
from tasks.runtime.environment import report_folder
from tasks.runtime.locks import DATA, INGEST, locked, refuse_while_read
from tasks.runtime.log import run_logger
from tasks.runtime.records import DataVersion, Validation
from tasks.runtime.stage import service_task
from tasks.validation.drift import RESOURCE, champion_reference
from tasks.validation.validate import validate_data_version

EVENT = "data.version.changed"


@contextmanager
def ingesting(name: str) -> Iterator[None]:
    """Let one ingest run at a time, and remove what it staged when it ends.

    Raises:
        DataError: another one is at work, or the name cannot be used.
    """
    require_name(name, "--name")
    with locked(INGEST, f"ingest {name}"):
        try:
            yield
        finally:
            shutil.rmtree(staging_folder(name), ignore_errors=True)


@service_task("current data version")
def current_version() -> DataVersion | None:
    """Return the tracked version, on disk and checked, or None where there is none yet.

    Raises:
        DataError: ``data/`` is not what ``data.dvc`` promises, DVC cannot work here, or a run reads
        the pairs.
        ServiceError: a DVC remote on the network does not answer.
    """
    pairs = current_pairs()
    folder = pairs.folder
    require_repository(folder.parent)
    with locked(DATA, "the look for runs that read the pairs", wait=True):
        refuse_while_read()
        repair_swap()

    if pairs.tracked.is_file():
        return materialise(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder}: not tracked, so an ingest would lose it; "
            f"`dvc add {folder.name}` it or move it away"
        )
    return None


@service_task("stage")
def stage_pairs(drop: Drop, current: DataVersion | None, limits: DataConfig) -> Staged:
    """Stage what a person hands in: new files, or a quarantine with corrected lines.

    Raises:
        DataError: a file or a line of it cannot be used, or the name is another version's.
        CheckpointError: less is free than the copies need.
    """
    if drop.quarantine is None:
        # Nobody wants pairs of the drawn sample beside their own.
        card = current_card(current)
        is_sample = card is not None and card.name == SAMPLE_NAME
        staged = stage_drop(drop, None if is_sample else current)
    elif current is None:
        raise DataError(f"{drop.quarantine}: there is no data version to mend; ingest one first")
    else:
        staged = stage_repaired(drop.name, drop.quarantine, current, limits)

    named = version_of_name(drop.name)
    if named not in (None, version_of(staged.file_md5)):
        raise DataError(
            f"--name {drop.name}: is the name of data version {named} already; choose another"
        )

    if staged.taken_over:
        run_logger().info("taken over from the current version: %s", ", ".join(staged.taken_over))
    for note in staged.notes:
        run_logger().info("%s", note)
    return staged


def current_card(current: DataVersion | None) -> VersionCard | None:
    """Return the card of the current version, or None where nobody gave it one."""
    if current is None:
        return None
    tracked = TrackedFolder(current.folder).tracked
    return card_in(tracked.read_text(encoding="utf-8")) or read_card(current.version)


@service_task("validate drop")
def validate_drop(staged: DataVersion, config: RunConfig) -> Validation:
    """Validate the staged folder as a run would validate the version that it will be.

    Raises:
        DataError: an expectation is not met.
        ServiceError: the registry does not answer.
    """
    return validate_data_version(
        staged, config.data, config.profile_processes, champion_reference(config.registered_model)
    )


@service_task("commit version")
def commit_version(
    staged: Staged, current: DataVersion | None, validation: Validation
) -> VersionCard:
    """Make the staged folder the current data version and return its card.

    Raises:
        DataError: a run reads the pairs, or the current version changed since it was looked at.
        CheckpointError: the disk is full.
    """
    previous = None if current is None else current.version
    card = VersionCard(
        version=version_of(staged.file_md5),
        name=staged.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        previous=previous,
        splits={
            count.name: SplitRows(lines=count.lines, accepted=count.accepted, faults=count.faults)
            for count in validation.counts
        },
        split=split_rule(staged.folder / "finetune"),
    )

    pairs = current_pairs()
    with locked(DATA, f"ingest {staged.name}", wait=True):
        refuse_while_read()
        if (pairs.promised() if pairs.tracked.is_file() else None) != previous:
            raise DataError(f"{pairs.tracked}: changed while the drop was validated; run again")
        (report_folder(card.version) / EVENT_FILE).unlink(missing_ok=True)
        replace_data(staged.folder, card)
    return card


@service_task("push")
def push_version(version: str) -> str | None:
    """Push the current version to the default remote.

    Returns:
        The sentence that says why it stays on this machine, None where it is there.

    Raises:
        DataError: a remote in a folder failed.
        ServiceError: a remote on the network failed.
    """
    pairs = current_pairs()
    remote = default_remote(pairs.folder.parent)

    # A remote inside this repository would have the pairs committed to git.
    if remote is None:
        why = "DVC has no default remote"
    elif is_inside_git(remote, pairs.folder.parent):
        why = (
            f"the default remote {remote.name} ({remote.url}) lies in this git repository, "
            "where it would be committed"
        )
    else:
        pairs.push()
        return None
    return (
        f"data version {version[:8]} is on this machine alone: {why}; set your own with "
        "`dvc remote add --default --force shop s3://bucket/path` (or a folder), then `dvc push`"
    )


@service_task("announce")
def announce_version(card: VersionCard | None) -> None:
    """Emit the Prefect event that automations wait for, once each time that a version comes in."""
    if card is None or read_card(card.version) is None:  # nobody ingested it on this machine
        return
    done = report_folder(card.version) / EVENT_FILE
    if done.exists():
        return

    payload = {
        "version": card.version,
        "name": card.name,
        "previous": card.previous,
        "rows": {
            name: {"accepted": rows.accepted, "quarantined": rows.lines - rows.accepted}
            for name, rows in card.splits.items()
        },
    }
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": RESOURCE,
            "prefect.resource.name": f"data version {card.name}",
        },
        payload=payload,
    )
    with atomic_write(done) as file:
        file.write(json.dumps(payload, indent=2).encode())
