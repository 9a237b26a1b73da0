"""Bring corrected lines of a quarantine back into the current data version.

A person corrects the bytes in a quarantine by hand; each line that is then a pair takes the place
of the line of its number, every other byte of the TSV stays what it was. The TSV is copied between
these lines, never parsed: a copy's cost, whatever its size.
"""

import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

import pyarrow.compute as pc

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.profile import profile_files, read_profile, write_profile
from model.pairs.tsv import read_lines
from model.storage.files import atomic_write, file_digest
from tasks.data.card import VERSION
from tasks.ingest.staging import (
    COPY_BYTES,
    Staged,
    fresh_folder,
    places_of,
    require_room,
    require_source,
    take_over,
)
from tasks.runtime.environment import report_folder, state_folder
from tasks.runtime.progress import progress
from tasks.runtime.records import DataVersion

SUFFIX = ".quarantine.tsv"
NAMED_LINES = 3
MARK = re.compile(rb"(\d{1,18})\t([a-z0-9_]+)\t(.*)", re.DOTALL)


class Span(NamedTuple):
    """Where a line lies in a file, in bytes."""

    offset: int
    length: int


def stage_repaired(name: str, quarantine: Path, current: DataVersion, limits: DataConfig) -> Staged:
    """Stage the current version with the corrected lines of a quarantine in it.

    Raises:
        DataError: the file is no quarantine of the current version, or no line of it is a pair now.
        CheckpointError: less is free than the copies need.
    """
    # Which file of the version the quarantine belongs to.
    split, places = _split_of(quarantine, current), places_of(current)
    file = split.removeprefix("pretrain-")
    place = f"{'finetune' if file == split else 'pretrain'}/{file}.tsv"
    if place not in places:
        raise DataError(
            f"{quarantine}: the current data version has no {place}; "
            "name the quarantine of one of its files"
        )
    profile = profile_files(report_folder(current.version), split).table
    table = read_profile(profile, ["line", "offset", "length", "fault"])
    rows = table.filter(pc.is_valid(table["fault"])).to_pylist()
    faulty = {row["line"]: Span(row["offset"], row["length"]) for row in rows}
    marked = _marked_lines(quarantine, faulty, limits)

    folder, tsv = fresh_folder(name), places[place]
    size = tsv.stat().st_size
    require_room(folder, size)
    reasons = _faults_now(quarantine, marked, limits)
    repaired = {line: span for line, span in marked.items() if reasons[line] is None}
    if not repaired:
        raise DataError(
            f"{quarantine}: no line of it is a pair now "
            f"({_still_faulty(reasons) or 'it is empty'}); mend its third column"
        )

    with progress("mend", size, "B") as bar:
        replaced = {faulty[line]: (quarantine, span) for line, span in repaired.items()}
        splice(tsv, folder / place, replaced, bar.advance)
    kept = {other: path for other, path in places.items() if other != place}
    digests = {place: file_digest(folder / place, "md5")} | take_over(current, kept, folder)

    notes = [f"{place}: {len(repaired):,} of {len(faulty):,} faulty lines mended"]
    if len(repaired) < len(marked):
        notes.append(f"{place}: still faulty and left as they were: {_still_faulty(reasons)}")
    return Staged(name=name, folder=folder, file_md5=digests, taken_over=sorted(kept), notes=notes)


def splice(
    tsv: Path,
    target: Path,
    replaced: dict[Span, tuple[Path, Span]],
    on_bytes: Callable[[int], None],
) -> None:
    """Copy a TSV with some of its lines replaced by byte ranges of other files."""
    with open(tsv, "rb") as source, atomic_write(target) as written:
        position = 0
        for old in sorted(replaced):
            other, new = replaced[old]
            _copy_range(source, written, old.offset - position, on_bytes)
            with open(other, "rb") as repaired:
                repaired.seek(new.offset)
                _copy_range(repaired, written, new.length, lambda _: None)
            position = source.seek(old.offset + old.length)

        # What follows the last of them.
        _copy_range(source, written, tsv.stat().st_size - position, on_bytes)


def _copy_range(
    source: IO[bytes], target: IO[bytes], length: int, on_bytes: Callable[[int], None]
) -> None:
    while length:
        chunk = source.read(min(COPY_BYTES, length))
        if not chunk:
            raise DataError(f"{source.name}: ended early, so it changed meanwhile; run again")
        target.write(chunk)
        on_bytes(len(chunk))
        length -= len(chunk)


def _split_of(quarantine: Path, current: DataVersion) -> str:
    """Return the split that a quarantine is of, by its name.

    Raises:
        DataError: it is not named like a quarantine, or lies among the reports of another data
        version.
    """
    require_source(quarantine)
    if not quarantine.name.endswith(SUFFIX):
        raise DataError(
            f"{quarantine}: not named <split>{SUFFIX}; keep the name that validation gave it"
        )

    # A copy may lie anywhere; reports lie in the folder of their version.
    of_version = quarantine.resolve().parent.name
    if VERSION.match(of_version) and of_version != current.version:
        raise DataError(
            f"{quarantine}: belongs to data version {of_version}, the current one is "
            f"{current.version}; mend the quarantine of the current one"
        )
    return quarantine.name.removesuffix(SUFFIX)


def _marked_lines(quarantine: Path, faulty: Container[int], limits: DataConfig) -> dict[int, Span]:
    """Return where the third column of a quarantine lies, by the line number in the first one.

    Raises:
        DataError: a line is not ``line number<TAB>reason<TAB>bytes``, or its number is wrong or
        stands twice.
    """
    marked: dict[int, Span] = {}
    # The number and the reason take 64 bytes at most.
    for line in read_lines(quarantine, limits.max_line_bytes + 64):
        # A line too long to hold has no data: it is too long for a pair, so it stays as it is.
        if line.length == 0 or line.data is None:
            continue

        where, mark = f"{quarantine} line {line.line}", MARK.match(line.data)
        if mark is None:
            raise DataError(
                f"{where}: not `line number<TAB>reason<TAB>bytes`; mend the third column alone"
            )
        number = int(mark[1])
        if number not in faulty:
            raise DataError(
                f"{where}: line {number} is no faulty line of the current data version; "
                "keep the numbers"
            )
        if number in marked:
            raise DataError(f"{where}: line {number} stands there twice; remove one of them")
        marked[number] = Span(line.offset + mark.start(3), line.length - mark.start(3))
    return marked


def _faults_now(
    quarantine: Path, marked: Mapping[int, Span], limits: DataConfig
) -> dict[int, str | None]:
    """Return the fault of each marked line as validation finds it now, None where it is a pair."""
    if not marked:
        return {}
    with TemporaryDirectory(dir=state_folder() / "ingest") as name:
        candidates, files = Path(name) / "candidates.tsv", profile_files(Path(name), "candidates")
        with open(quarantine, "rb") as source, atomic_write(candidates) as written:
            for span in marked.values():
                source.seek(span.offset)
                _copy_range(source, written, span.length, lambda _: None)
                written.write(b"\n")

        write_profile(candidates, files, limits)
        faults = read_profile(files.table, ["fault"])["fault"].to_pylist()
        return dict(zip(marked, faults, strict=True))


def _still_faulty(reasons: Mapping[int, str | None]) -> str:
    left = [f"line {line} {reason}" for line, reason in reasons.items() if reason is not None]
    more = f" and {len(left) - NAMED_LINES:,} more" if len(left) > NAMED_LINES else ""
    return ", ".join(left[:NAMED_LINES]) + more
