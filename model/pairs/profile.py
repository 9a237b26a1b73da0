"""The profile: a Parquet row for every line of a TSV, and the faulty lines put aside.

One pass over the file, shared by several processes; the files are the same to the byte however many
there are. In a profile, accepted plus quarantined are the lines. Memory is flat: a few pieces of 4
MB and one row group. On two cores about 6,000 lines/s of 224-pixel JPEGs; each image is decoded
once, to know that it can be.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.line_facts import Piece, ProfiledPiece, profile_piece
from model.pairs.near_duplicates import THUMB_BYTES
from model.pairs.processes import in_processes, usable_cores
from model.pairs.tsv import BUFFER_BYTES, LineColumns, check_file, chunk_bounds
from model.storage.files import atomic_write, file_digest

PIECE_BYTES = 4 << 20
# Starting a process costs about as much as profiling this many pieces.
PIECES_A_PROCESS = 4
ROWS_A_GROUP = 8192
# Words seen once are dropped when this many are known: drift is measured on frequent ones.
MAX_COUNTED_WORDS = 200_000

PROFILE_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "caption_chars": pa.int32(),
        "caption_words": pa.int32(),
        "caption_script": pa.string(),
        "caption_hash": pa.uint64(),
        "caption_key": pa.uint64(),
        "image_format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "image_bytes": pa.int32(),
        "image_hash": pa.uint64(),
        "image_phash": pa.uint64(),
        "image_thumb": pa.binary(THUMB_BYTES),
        "fault": pa.string(),
        "notes": pa.string(),
    }
)
# Raise it when a column changes its meaning, so that profiles from before are made again.
PROFILE_VERSION = 3
WORDS_SCHEMA = pa.schema({"word": pa.string(), "count": pa.int64()})


class ProfileFiles(NamedTuple):
    """What profiling a split leaves: a table, the faulty lines, counted words, and the counts."""

    table: Path
    quarantine: Path
    words: Path
    summary: Path


@dataclass(frozen=True)
class ProfileSummary:
    """Counts of a profile; ``notes`` counts what was accepted although it is unusual."""

    lines: int
    accepted: int
    quarantined: int
    faults: dict[str, int]
    notes: dict[str, int]

    def __post_init__(self) -> None:
        if not self.lines - self.accepted == self.quarantined == sum(self.faults.values()):
            raise ValueError(f"accepted and quarantined are not the lines: {self}")


def profile_files(folder: Path, name: str) -> ProfileFiles:
    """Return where the profile of a split lies in the folder of a data version."""
    return ProfileFiles(
        folder / f"{name}.profile.parquet",
        folder / f"{name}.quarantine.tsv",
        folder / f"{name}.words.parquet",
        folder / f"{name}.profile.json",
    )


def write_profile(
    tsv: Path,
    files: ProfileFiles,
    limits: DataConfig,
    columns: LineColumns = "pair",
    on_rows: Callable[[int], None] = lambda rows: None,
    processes: int | None = None,
) -> ProfileSummary:
    """Validate every line of a TSV in one streaming pass.

    The table has the columns of ``PROFILE_SCHEMA``. The quarantine gets ``line
    number<TAB>reason<TAB>original bytes`` a faulty line and does not exist when there is none. By
    default there are as many processes as cores, and one for a small file. ``on_rows`` is called
    with the lines done since its last call.

    Raises:
        DataError: the file cannot be a TSV, changed while it was read, or one of the processes was
            killed.
    """
    check_file(tsv)
    before, lines = _stamp(tsv), 0
    faults, notes, words = Counter[str](), Counter[str](), Counter[str]()

    with atomic_write(files.table) as table_file, atomic_write(files.quarantine) as quarantined:
        with pq.ParquetWriter(
            table_file, PROFILE_SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer:
            for group in _row_groups(_profiled(tsv, limits, columns, processes), words, on_rows):
                writer.write_table(group)
                _copy_faulty(tsv, group, quarantined)
                lines += len(group)
                faults.update(group["fault"].drop_null().to_pylist())
                notes.update(" ".join(group["notes"].drop_null().to_pylist()).split())

        # Raised inside the block, so that neither file stays.
        if _stamp(tsv) != before:
            raise DataError(
                f"{tsv}: changed while it was read; wait until it is complete and run again"
            )

    if not faults:
        files.quarantine.unlink(missing_ok=True)
    _write_words(words, files.words)

    # The summary comes last: its hashes prove that the other files are whole.
    counts = (dict(sorted(counter.items())) for counter in (faults, notes))
    summary = ProfileSummary(lines, lines - faults.total(), faults.total(), *counts)
    values = asdict(summary) | _identity(tsv, files, limits, columns, summary)
    with atomic_write(files.summary) as file:
        file.write(json.dumps(values, indent=2).encode())
    return summary


def existing_profile(
    tsv: Path, files: ProfileFiles, limits: DataConfig, columns: LineColumns = "pair"
) -> ProfileSummary | None:
    """Return the counts of a profile that `write_profile` left, None where it must run.

    A profile of other limits, or one whose files are missing or changed, counts as none. The caller
    knows that the TSV's content is that of the profile's folder, which is named by its hash.
    """
    try:
        left = json.loads(files.summary.read_bytes())
        summary = ProfileSummary(**{each.name: left[each.name] for each in fields(ProfileSummary)})
        expected = asdict(summary) | _identity(tsv, files, limits, columns, summary)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary if left == expected else None


def read_profile(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the table that `write_profile` wrote, or some of its columns.

    Raises:
        DataError: it is missing or damaged, if only by a flipped bit.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(PROFILE_SCHEMA):
                raise DataError(
                    f"{path}: is no profile of this version; delete it and validate again"
                )
            # Starting threads costs more than they save.
            return file.read(columns, use_threads=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such profile; validate the data first") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: damaged profile; delete it and validate the data again"
        ) from error


def _profiled(
    tsv: Path, limits: DataConfig, columns: LineColumns, processes: int | None
) -> Iterator[ProfiledPiece]:
    """Yield the rows of each piece of a TSV in order."""
    held_to = (limits.max_line_bytes, limits.max_pixels, limits.min_image_side)
    pieces = (Piece(tsv, *bounds, columns, *held_to) for bounds in chunk_bounds(tsv, PIECE_BYTES))
    if processes is None:
        processes = min(usable_cores(), tsv.stat().st_size // (PIECES_A_PROCESS * PIECE_BYTES))

    try:
        yield from in_processes(profile_piece, pieces, processes)
    except BrokenProcessPool:
        raise DataError(
            f"{tsv}: a process that profiled it was killed, perhaps for memory; "
            "set profile_processes lower and run again"
        ) from None
    except OSError as error:
        raise _unreadable(tsv, error) from error


def _row_groups(
    pieces: Iterator[ProfiledPiece], words: Counter[str], on_rows: Callable[[int], None]
) -> Iterator[pa.Table]:
    """Yield tables of at least ROWS_A_GROUP rows but for the last, and count the words.

    Lines, which each piece counts from 1, are numbered through.
    """
    lines, waiting = 0, list[pa.Table]()
    for piece in pieces:
        found = len(piece.columns["line"])
        piece.columns["line"] = [line + lines for line in piece.columns["line"]]
        lines += found
        waiting.append(pa.table(piece.columns, schema=PROFILE_SCHEMA))

        words.update(piece.words)
        if len(words) > MAX_COUNTED_WORDS:
            for word in [word for word, count in words.items() if count == 1]:
                del words[word]

        on_rows(found)
        if sum(map(len, waiting)) >= ROWS_A_GROUP:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _copy_faulty(tsv: Path, group: pa.Table, quarantined: IO[bytes]) -> None:
    """Append the faulty lines of a group, byte for byte, to the open quarantine file."""
    faulty = group.filter(group["fault"].is_valid()).select(["line", "offset", "length", "fault"])
    for row in faulty.to_pylist():
        quarantined.write(b"%d\t%s\t" % (row["line"], row["fault"].encode()))
        for block in _read_blocks(tsv, row["offset"], row["length"]):
            quarantined.write(block)
        quarantined.write(b"\n")


def _read_blocks(tsv: Path, offset: int, length: int) -> Iterator[bytes]:
    # A failure to read gets a sentence of its own, unlike one to write what was read.
    try:
        with tsv.open("rb") as file:
            file.seek(offset)
            for start in range(0, length, BUFFER_BYTES):
                yield file.read(min(BUFFER_BYTES, length - start))
    except OSError as error:
        raise _unreadable(tsv, error) from error


def _unreadable(tsv: Path, error: OSError) -> DataError:
    return DataError(
        f"{tsv}: cannot be read any more ({error.strerror}); check its disk and run again"
    )


def _write_words(words: Counter[str], path: Path) -> None:
    names = sorted(words)
    table = pa.table([names, [words[name] for name in names]], schema=WORDS_SCHEMA)
    with atomic_write(path) as file:
        pq.write_table(table, file)


def _identity(
    tsv: Path,
    files: ProfileFiles,
    limits: DataConfig,
    columns: LineColumns,
    summary: ProfileSummary,
) -> dict[str, Any]:
    """Return the source of a profile and the hashes that prove it whole."""
    left = [files.table, files.words, *([files.quarantine] if summary.faults else [])]
    digests = {path.name: file_digest(path) for path in left}
    digests["counts"] = hashlib.sha256(json.dumps(asdict(summary)).encode()).hexdigest()
    return {
        "version": PROFILE_VERSION,
        "tsv_bytes": tsv.stat().st_size,
        "columns": columns,
        "limits": [limits.max_line_bytes, limits.max_pixels, limits.min_image_side],
        "sha256": digests,
    }


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
