"""Make a new data version of a drop of pairs, or of lines mended by hand.

The drop is staged and judged beside the current version; only then is ``data/`` replaced
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
from tasks.data.card import EVENT_FILE, SAMPLE, SplitRows, VersionCard, card_in, read_card
from tasks.data.dvc import (
    data_folder,
    default_remote,
    is_inside_git,
    promised_version,
    push,
    require_repository,
    tracked_file,
)
from tasks.data.history import version_of_name
from tasks.data.swap import heal, replace_data
from tasks.data.version import materialise, version_of
from tasks.ingest.mending import stage_mended
from tasks.ingest.staging import Drop, Staged, require_name, stage, staging_folder
from tasks.runtime.environment import report_folder
from tasks.runtime.locks import DATA, INGEST, locked, refuse_while_read
from tasks.runtime.log import run_logger
from tasks.runtime.records import DataVersion, Validation
from tasks.runtime.stage import service_task

EVENT = "data.version.changed"
RESOURCE = "commerce-clip.data"


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
    folder = data_folder()
    require_repository(folder.parent)
    with locked(DATA, "the look for runs that read the pairs", wait=True):
        refuse_while_read()
        heal()
    if tracked_file(folder).is_file():
        return materialise(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder}: not tracked, so an ingest would lose it; `dvc add {folder.name}` it or move it away"
        )
    return None


@service_task("stage")
def stage_pairs(drop: Drop, current: DataVersion | None, limits: DataConfig) -> Staged:
    """Stage what a person hands in: new files, or a quarantine with mended lines.

    Raises:
        DataError: a file or a line of it cannot be used, or the name is another version's.
        CheckpointError: less is free than the copies need.
    """
    if drop.mend is not None:
        if current is None:
            raise DataError(f"{drop.mend}: there is no data version to mend; ingest one first")
        staged = stage_mended(drop.name, drop.mend, current, limits)
    else:
        staged = stage(drop, None if is_sample(current) else current)
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


def is_sample(current: DataVersion | None) -> bool:
    """Return whether the current version is the drawn sample, from which nobody wants pairs beside their own."""
    card = current_card(current)
    return card is not None and card.name == SAMPLE


def current_card(current: DataVersion | None) -> VersionCard | None:
    """Return the card of the current version, or None where nobody gave it one."""
    if current is None:
        return None
    return card_in(tracked_file(current.folder).read_text(encoding="utf-8")) or read_card(
        current.version
    )


@service_task("judge")
def judge(staged: DataVersion, config: RunConfig) -> Validation:
    """Judge the staged folder as a run would judge the version that it is about to be, drift
    included.

    Raises:
        DataError: an expectation is not met.
        ServiceError: the registry does not answer.
    """
    from tasks.validation.drift import champion_reference
    from tasks.validation.validate import validate_data_version

    return validate_data_version(
        staged, config.data, config.profile_processes, champion_reference(config.registered_model)
    )


@service_task("adopt")
def adopt(staged: Staged, current: DataVersion | None, validation: Validation) -> VersionCard:
    """Make the staged folder the current data version and return its card.

    Raises:
        DataError: a run reads the pairs, or the current version changed since it was looked at.
        CheckpointError: the disk is full.
    """
    card = VersionCard(
        version=version_of(staged.file_md5),
        name=staged.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        previous=None if current is None else current.version,
        splits={
            count.name: SplitRows(lines=count.lines, accepted=count.accepted, faults=count.faults)
            for count in validation.counts
        },
    )
    with locked(DATA, f"ingest {staged.name}", wait=True):
        refuse_while_read()
        _require_unchanged(current)
        (report_folder(card.version) / EVENT_FILE).unlink(missing_ok=True)
        replace_data(staged.folder, card)
    return card


@service_task("push")
def push_version(version: str) -> str | None:
    """Push the current version to the default remote; return the sentence that says why not, None
    where it is there.

    Raises:
        DataError: a remote in a folder failed.
        ServiceError: a remote on the network failed.
    """
    tracked = tracked_file(data_folder())
    remote = default_remote(tracked.parent)
    how = "set your own with `dvc remote add --default --force shop s3://bucket/path` (or a folder), then `dvc push`"
    if remote is None:
        return (
            f"data version {version[:8]} is on this machine alone: DVC has no default remote; {how}"
        )
    if is_inside_git(remote, tracked.parent):
        return (
            f"data version {version[:8]} is on this machine alone: the default remote {remote.name} ({remote.url}) "
            f"lies in this git repository, where it would be committed; {how}"
        )
    push(tracked)
    return None


@service_task("announce")
def announce(card: VersionCard | None) -> None:
    """Emit the Prefect event that automations wait for, once each time that a version becomes the current one."""
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
    resource = {
        "prefect.resource.id": RESOURCE,
        "prefect.resource.name": f"data version {card.name}",
    }
    emit_event(EVENT, resource=resource, payload=payload)
    with atomic_write(done) as file:
        file.write(json.dumps(payload, indent=2).encode())


def _require_unchanged(current: DataVersion | None) -> None:
    tracked = tracked_file(data_folder())
    named = promised_version(tracked) if tracked.is_file() else None
    if named != (None if current is None else current.version):
        raise DataError(f"{tracked}: changed while the drop was judged; run again")
