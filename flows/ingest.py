"""A drop of pairs, or lines mended by hand, becomes the current data version.

The drop is judged before anything of the current version is touched; a kill at any moment leaves
the old version or the new one, and the next ingest or run heals what lies between. The same drop
twice is one version.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from prefect import flow

from flows.cli.terminal import print_facts, print_line
from flows.parameters import Config, Described, Overrides, read_config
from model.errors import ConfigError
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

DropName = Annotated[
    str, Described("Name of the new data version: lower-case letters, digits, '.', '_' and '-'.")
]
Split = Annotated[
    str | None, Described("TSV of this split; without it the current version's is taken over.")
]
Pretrain = Annotated[
    Sequence[str], Described("TSVs for continued pretraining, in place of the current version's.")
]
Mend = Annotated[
    str | None, Described("A quarantine of the current version with lines mended by hand.")
]


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
    train: Split = None,
    valid: Split = None,
    test: Split = None,
    pretrain: Pretrain = (),
    mend: Mend = None,
    config: Config = "configs/sample.yaml",
    overrides: Overrides = (),
) -> Ingested:
    """Make a new data version of a drop, or of the current version with mended lines in it."""
    settings = read_config(config, overrides)
    drop = read_drop(name, train, valid, test, pretrain, mend)
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
        unpushed = push_version(version.version)
        announce_version(card)
    return _outcome(staged, version.version, card, is_new, unpushed)


def read_drop(
    name: str,
    train: str | None,
    valid: str | None,
    test: str | None,
    pretrain: Sequence[str],
    mend: str | None,
) -> Drop:
    """Return what is to be ingested.

    Raises:
        ConfigError: nothing is given, or files beside a quarantine.
    """
    given = {"train": train, "valid": valid, "test": test}
    paths = {split: Path(path) for split, path in given.items() if path is not None}
    if mend is not None and (paths or pretrain):
        raise ConfigError(
            "--mend takes lines of the current version alone; ingest other files with a run of its own"
        )
    if not (mend or paths or pretrain):
        raise ConfigError(
            "nothing to ingest; give --train, --valid, --test or --pretrain, or a quarantine with --mend"
        )
    return Drop(
        name=name,
        **paths,
        pretrain=tuple(map(Path, pretrain)),
        quarantine=None if mend is None else Path(mend),
    )


def _outcome(
    staged: Staged, version: str, card: VersionCard | None, is_new: bool, unpushed: str | None
) -> Ingested:
    name = card.name if card else staged.name
    facts = {"version": version}
    if card:
        facts["accepted pairs"] = rows_text(card.splits)
        facts["faults"] = (
            ", ".join(f"{reason} {count}" for reason, count in card.faults.items()) or "none"
        )
    facts |= {
        "taken over": ", ".join(staged.taken_over) or "nothing",
        "notes": "; ".join(staged.notes) or "none",
    }
    if not is_new:
        headline = f"nothing new: the current data version {name} holds just these pairs"
        return Ingested(
            version=version,
            is_new=False,
            headline=headline,
            facts=facts,
            next_steps=_todo(unpushed),
        )
    steps = [
        *_todo(unpushed),
        f"make it part of the history: {commit_command(f'Data version {name}')}",
    ]
    return Ingested(
        version=version,
        is_new=True,
        headline=f"new data version {name}",
        facts=facts,
        next_steps=steps,
    )


def _todo(unpushed: str | None) -> list[str]:
    return [] if unpushed is None else [unpushed]


def print_ingested(ingested: Ingested) -> None:
    """Show the outcome in the terminal, and what is left to do."""
    print_facts(ingested.headline, ingested.facts)
    for number, step in enumerate(ingested.next_steps, 1):
        print_line(f"next {number}: {step}")
