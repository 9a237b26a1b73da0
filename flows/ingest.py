"""A drop of pairs, or lines repaired by hand, becomes the current data version.

The drop is validated before anything of the current version is touched; a kill at any moment leaves
the old version or the new one, and the next ingest or run repairs what lies between. The same drop
twice is one version.
"""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.heartbeat import require_settings
from flows.parameters import (
    SAMPLE_CONFIG,
    Config,
    DropName,
    FeedFile,
    MendedFile,
    Overrides,
    PretrainFiles,
    SplitFile,
)
from flows.settings import read_config
from model.errors import ConfigError, typed
from tasks.data.card import VersionCard, rows_text
from tasks.data.status import commit_command
from tasks.ingest.ingest import (
    announce_version,
    commit_version,
    current_card,
    current_version,
    ingesting,
    push_version,
    stage_pairs,
    validate_drop,
)
from tasks.ingest.staging import Drop, Staged, staged_version
from tasks.runtime.records import Record


class Ingested(Record):
    """The outcome of an ingest: the version that is current now, and what is left to do."""

    version: str
    is_new: bool
    headline: str
    facts: dict[str, str]
    next_steps: list[str]


@flow(name="ingest", flow_run_name="{name}")
def ingest(
    name: DropName,
    train: SplitFile = None,
    valid: SplitFile = None,
    test: SplitFile = None,
    pretrain: PretrainFiles = (),
    mend: MendedFile = None,
    feed: FeedFile = None,
    config: Config = SAMPLE_CONFIG,
    overrides: Overrides = (),
) -> Ingested:
    """Make a new data version of a drop of pairs, or of lines that were repaired by hand."""
    require_settings()
    settings = read_config(config, overrides)
    drop = read_drop(name, train, valid, test, pretrain, mend, feed)
    with ingesting(drop.name):
        current = current_version()
        staged = stage_pairs(drop, current, settings.data)
        version = staged_version(staged)
        is_new = current is None or version.version != current.version
        card = (
            commit_version(staged, current, validate_drop(version, settings))
            if is_new
            else current_card(current)
        )

        # What an earlier try did not push or announce goes out now.
        unpushed = push_version(version.version)
        announce_version(card)
    return _outcome(staged, version.version, card, is_new, unpushed, config)


def read_drop(
    name: str,
    train: str | None,
    valid: str | None,
    test: str | None,
    pretrain: Sequence[str],
    mend: str | None,
    feed: str | None = None,
) -> Drop:
    """Return the drop to ingest.

    Raises:
        ConfigError: nothing is given, or files beside a quarantine or splits beside a feed.
    """
    given = {"train": train, "valid": valid, "test": test}
    paths = {split: Path(path) for split, path in given.items() if path is not None}
    if feed is not None and paths:
        raise ConfigError(
            "--feed is split into train, valid and test; give these or the feed, not both"
        )
    if mend is not None and (paths or pretrain or feed):
        raise ConfigError(
            "--mend takes lines of the current version alone; "
            "ingest other files with a run of its own"
        )
    if not (mend or paths or pretrain or feed):
        raise ConfigError(
            "nothing to ingest; give --feed, --train, --valid, --test or --pretrain, "
            "or a quarantine with --mend"
        )

    return Drop(
        name=name,
        **paths,
        pretrain=tuple(map(Path, pretrain)),
        quarantine=None if mend is None else Path(mend),
        feed=None if feed is None else Path(feed),
    )


def _outcome(
    staged: Staged,
    version: str,
    card: VersionCard | None,
    is_new: bool,
    unpushed: str | None,
    config: str,
) -> Ingested:
    name = card.name if card else staged.name
    facts = {"version": version}
    if card:
        faults = ", ".join(f"{reason} {count}" for reason, count in card.faults.items())
        facts |= {
            "accepted pairs": rows_text(card.splits),
            "faults": faults or "none",
            "split": card.split,
        }
    facts |= {
        "taken over": ", ".join(staged.taken_over) or "nothing",
        "notes": "; ".join(staged.notes) or "none",
    }

    headline = f"nothing new: the current data version {name} holds just these pairs"
    next_steps = [] if unpushed is None else [unpushed]
    if is_new:
        headline = f"new data version {name}"
        next_steps.append(f"make it part of the history: {commit_command(f'Data version {name}')}")
        next_steps.append(f"train on it: {typed(f'retrain --config {config}')}")
    return Ingested(
        version=version, is_new=is_new, headline=headline, facts=facts, next_steps=next_steps
    )
