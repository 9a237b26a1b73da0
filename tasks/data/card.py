"""What is known of a data version besides its bytes: its card.

It stands in ``data.dvc`` (fields ``desc`` and ``meta``, which DVC keeps), so that it travels with
git, and in ``state/data/<version>/version.json``. A plain `dvc add` keeps those fields of
``data.dvc``, too, so a card that names another version than the file does is nobody's.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model.errors import DataError
from model.storage.files import atomic_write
from tasks.data.dvc import version_in
from tasks.runtime.environment import report_folder, state_folder
from tasks.runtime.records import Record

META_KEY = "commerce_clip"
SAMPLE_NAME = "sample"
CARD_FILE, EVENT_FILE = "version.json", "event.json"
VERSION = re.compile(r"\A[0-9a-f]{32}\Z")


class SplitRows(Record):
    """Rows of one TSV of a data version, and its faults by reason."""

    lines: int
    accepted: int
    faults: dict[str, int]


class VersionCard(Record):
    """A data version's hash, name, birth (UTC, ISO 8601), predecessor, and rows by split.

    ``split`` says how train, valid and test came about; of versions from before nobody knows.
    """

    version: str
    name: str
    created: str
    previous: str | None
    splits: dict[str, SplitRows]
    split: str = "unknown"

    @property
    def faults(self) -> dict[str, int]:
        """Faulty lines by reason, over all splits."""
        reasons = sorted({reason for rows in self.splits.values() for reason in rows.faults})
        return {
            reason: sum(rows.faults.get(reason, 0) for rows in self.splits.values())
            for reason in reasons
        }


def card_in(text: str) -> VersionCard | None:
    """Return the card in the text of a ``.dvc`` file, None without one of the version it names."""
    try:
        version = version_in(text)
        card = VersionCard.model_validate(
            {"version": version, **yaml.safe_load(text)["meta"][META_KEY]}
        )
    except (ValueError, KeyError, TypeError):
        return None
    return card if card.version == version else None


def read_card(version: str) -> VersionCard | None:
    """Return the card that an ingest on this machine left, or None."""
    card = VersionCard.read(report_folder(version) / CARD_FILE)
    return card if card and card.version == version else None


def local_cards() -> list[VersionCard]:
    """Return the cards of all ingests on this machine, oldest first."""
    found = [
        read_card(path.parent.name) for path in (state_folder() / "data").glob(f"*/{CARD_FILE}")
    ]
    return sorted((card for card in found if card is not None), key=lambda card: card.created)


def write_version_card(card: VersionCard) -> None:
    """Leave the card beside the version's profiles."""
    card.write(report_folder(card.version) / CARD_FILE)


def annotate(tracked: Path, card: VersionCard) -> None:
    """Put a card into the ``.dvc`` file that names its version.

    Raises:
        DataError: the file names another version.
    """
    text = tracked.read_text(encoding="utf-8")
    if version_in(text) != card.version:
        raise DataError(
            f"{tracked}: does not name {card.version}; "
            f"restore it with `git checkout {tracked.name}`"
        )

    # The card first, so that a person who opens the file reads it before DVC's own keys.
    content: dict[str, Any] = yaml.safe_load(text)
    pairs = sum(rows.accepted for rows in card.splits.values())
    described = {
        "desc": f"{card.name}, {card.created}, {pairs:,} pairs",
        "meta": {**(content.get("meta") or {}), META_KEY: card.model_dump(mode="json")},
    }
    content = described | {key: value for key, value in content.items() if key not in described}
    with atomic_write(tracked) as file:
        file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode())


def rows_text(splits: Mapping[str, SplitRows]) -> str:
    """Return the accepted pairs by split: ``train 1,000, valid 100``."""
    return ", ".join(f"{name} {rows.accepted:,}" for name, rows in splits.items())
