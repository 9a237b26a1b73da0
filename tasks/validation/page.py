"""The page of a data version: what was expected and found, with the lines and images to look at.

`data.html` lies beside the profiles, loads nothing and runs nothing. It shows faults by reason with
their first lines, and what repeats or leaks side by side as images. Great Expectations evaluates as
before; its own Data Docs are one link further. Places of lines are read once a split, and a few
dozen lines at theirs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from model.errors import FaultReason
from model.pairs.drift import read_counts
from model.pairs.profile import read_profile
from model.pairs.repeats import read_repeats
from model.pairs.tsv import parse_line, read_line_at
from model.storage.files import atomic_write
from tasks.data.card import read_card
from tasks.pages.html import render
from tasks.pages.text import count_rows
from tasks.runtime.environment import data_page, page_address
from tasks.runtime.page import publish_link
from tasks.runtime.records import DataVersion, SplitCounts
from tasks.validation.accepted import profile_path
from tasks.validation.drift import Drift
from tasks.validation.leaks import TEST, comparison_files, kinds

if TYPE_CHECKING:
    from tasks.validation.suite import Verdict

SHOWN_FAULTS, SHOWN_TWINS, SHOWN_VALUES = 3, 6, 10
MOST_BYTES = 2_000_000  # of a line that is shown
MOST_TEXT = 160  # characters of a line that is no pair
PLACES = ["line", "offset", "length", "fault"]
FACTS = ("caption_chars", "caption_words", "caption_script", "image_format", "width", "height")


class Shown(NamedTuple):
    """A line of a split as a person sees it: where it stands, its caption or text, its image."""

    where: str
    text: str
    image: bytes


def publish_data_page(
    data: DataVersion,
    tsvs: Mapping[str, Path],
    folder: Path,
    counts: list[SplitCounts],
    drift: Drift | None,
    verdict: "Verdict",
    warnings: list[str],
) -> Path:
    """Write the page of a data version and link it from Prefect.

    Raises:
        CheckpointError: the page cannot be written.
        DataError: a profile is damaged.
    """
    card = read_card(data.version)
    name = card.name if card else data.folder.name
    profiles = {split: read_profile(profile_path(folder, split), PLACES) for split in tsvs}
    page = render(
        "data.html.jinja",
        title=f"Data version {data.short}: {name}",
        verdict=verdict,
        warnings=[*warnings, *verdict.warnings],
        counts=count_rows(counts, "name"),
        faults=[
            each for split, tsv in tsvs.items() for each in _faults(split, tsv, profiles[split])
        ],
        twins=[each for split in tsvs for each in _twins(split, tsvs, folder, profiles)],
        drift=_drift_rows(drift),
        reference=drift.reference.name if drift is not None else "",
        facts={split: _facts(folder, split) for split in tsvs},
        docs=f"{verdict.docs.parent.name}/{verdict.docs.name}",
    )
    path = data_page(data.version)
    with atomic_write(path) as file:
        file.write(page.encode())
    publish_link(page_address(path), text="Data version", key="data-version", description=name)
    return path


def _faults(name: str, tsv: Path, profile: pa.Table) -> Iterable[dict[str, Any]]:
    """List the faults of a split by reason, the most frequent first, with their first lines."""
    faulty = profile.filter(pc.is_valid(profile["fault"]))
    reasons = faulty["fault"].value_counts().to_pylist()
    for each in sorted(reasons, key=lambda each: -each["counts"]):
        first = faulty.filter(pc.equal(faulty["fault"], each["values"])).slice(0, SHOWN_FAULTS)
        yield {
            "split": name,
            "reason": each["values"],
            "lines": each["counts"],
            "first": [_shown(name, tsv, row) for row in first.to_pylist()],
        }


def _twins(
    name: str, tsvs: Mapping[str, Path], folder: Path, profiles: Mapping[str, pa.Table]
) -> Iterable[dict[str, Any]]:
    """List leaks from test, then repeats within a split, by kind, with the first side by side."""
    files = comparison_files(folder, name)
    for path, other in ((files.leaks, TEST), (files.repeats, name)):
        table = read_repeats(path)
        for kind in kinds(table):
            found = table.filter(pc.equal(table["kind"], kind))
            first = found.slice(0, SHOWN_TWINS)
            ours, theirs = (
                profiles[split].take(pc.subtract(first[column], 1)).to_pylist()
                for split, column in ((name, "line"), (other, "of_line"))
            )
            yield {
                "split": name,
                "other": other,
                "kind": kind.replace("_", " "),
                "lines": len(found),
                "first": [
                    (_shown(name, tsvs[name], our), _shown(other, tsvs[other], their))
                    for our, their in zip(ours, theirs, strict=True)
                ],
            }


def _shown(name: str, tsv: Path, row: Mapping[str, int]) -> Shown:
    """Read a line for people; of what is no pair, its beginning and no image."""
    line = read_line_at(tsv, row["offset"], min(row["length"], MOST_BYTES))
    pair = parse_line(line)
    image = b"" if isinstance(pair, FaultReason) else pair.image or b""

    text = line.partition(b"\t")[0].decode("utf-8", "replace").strip()
    cut = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
    return Shown(f"{name} line {row['line']:,}", cut, image)


def _drift_rows(drift: Drift | None) -> list[dict[str, str]]:
    columns = [] if drift is None else drift.over(0)
    return [
        {
            "name": each.split,
            "column": each.column,
            "drift": f"{each.drift:.3f}",
            "note": each.values(),
        }
        for each in columns
    ]


def _facts(folder: Path, name: str) -> list[dict[str, str]]:
    """List the most frequent values of a split's facts: sizes, scripts, formats, words."""
    counts = read_counts(comparison_files(folder, name).counts)
    rows = []
    for column in (*FACTS, "words"):
        found = counts.filter(pc.equal(counts["column"], column)).to_pylist()
        most = sorted(found, key=lambda row: -row["count"])[:SHOWN_VALUES]
        if most:
            values = ", ".join(f"{row['value']} ({row['count']:,})" for row in most)
            rest = f", … {len(found):,} in all" if len(found) > len(most) else ""
            rows.append({"column": column.replace("_", " "), "note": values + rest})
    return rows
