"""Random access to the accepted pairs of a split, by the offsets of their profile.

A TSV is read in place: nothing is unpacked, and nothing mapped, because a mapped file that is cut
kills its readers with a signal (DECISIONS 16). Each pair that is read is compared with the hashes
in its profile, so nothing is trained on that was not validated. Opening 10 GB of 500,000 pairs
takes about 0.06 s of one core and 90 MB; a shuffled read about 25 µs for a line of 7 KB (7 of them
the hashes), a caption alone 12 µs; an index 48 bytes a pair.
"""

import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.errors import DataError, FaultReason
from model.pairs.arrays import Hashes, Rows
from model.pairs.holdout import group_rows, hold_out
from model.pairs.line_facts import caption_hash, content_hash
from model.pairs.profile import read_profile
from model.pairs.tsv import LineColumns, Pair, parse_line

INDEXED_COLUMNS = ["offset", "length", "caption_hash", "image_hash", "fault"]
# At least so many lines of each file are read when it is opened, spread evenly.
SAMPLED_LINES = 32
# Room for a caption of 1,000 characters in any script; a longer one is read with its whole line.
CAPTION_HEAD_BYTES = 4096


class PairSource(NamedTuple):
    """A TSV, the profile that says where its pairs lie, and the columns that both have."""

    tsv: Path
    profile: Path
    columns: LineColumns = "pair"


@dataclass(eq=False)
class PairIndex:
    """Where the accepted pairs of a split lie: a row a pair, N rows.

    Of a TSV of captions or of images alone, the hashes of the other column are 0.

    Threads share an index; processes may fork with it or get it sent, and then open the files by
    themselves.
    """

    files: tuple[Path, ...]
    file: Rows
    line: Rows
    offset: Rows
    length: Rows
    caption_hash: Hashes
    image_hash: Hashes
    columns: LineColumns = "pair"
    _descriptors: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.offset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}

    def take(self, rows: Rows) -> "PairIndex":
        """Return the index of the chosen rows, in their order."""
        return PairIndex(
            files=self.files,
            file=self.file[rows],
            line=self.line[rows],
            offset=self.offset[rows],
            length=self.length[rows],
            caption_hash=self.caption_hash[rows],
            image_hash=self.image_hash[rows],
            columns=self.columns,
        )

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the pairs in their order, by which caches are named."""
        digest = hashlib.sha256()
        for column in (self.caption_hash, self.image_hash, self.length):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def where(self, row: int) -> str:
        """Return ``train.tsv line 41`` for messages."""
        return f"{self.files[self.file[row]]} line {self.line[row]}"

    def where_all(self, rows: Rows) -> str:
        """Return ``train.tsv lines 3, 9, 12, 15, 20 and 11 more`` for messages about many rows."""
        rows = rows[np.lexsort((self.line[rows], self.file[rows]))]
        first = rows[:5]
        named = [
            f"{self.files[file]} lines "
            + ", ".join(str(line) for line in self.line[first[self.file[first] == file]])
            for file in np.unique(self.file[first])
        ]

        return ", ".join(named) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")

    def read(self, row: int) -> Pair:
        """Return the caption and the encoded image of a row.

        Raises:
            DataError: the line is not the one that was profiled, or the file cannot be read.
        """
        pair = parse_line(self._bytes(row, int(self.length[row])), self.columns)
        # A column that the TSV does not have is hashed as 0.
        if (
            isinstance(pair, FaultReason)
            or (0 if pair.image is None else content_hash(pair.image)) != self.image_hash[row]
            or (0 if pair.caption is None else caption_hash(pair.caption)) != self.caption_hash[row]
        ):
            raise self._changed(row)
        return pair

    def caption(self, row: int) -> str:
        """Return the caption of a row, at half the cost of `read`.

        Raises:
            DataError: the caption is not the one that was profiled, or the file cannot be read.
        """
        length = int(self.length[row])
        raw = self._bytes(row, min(length, CAPTION_HEAD_BYTES))
        if b"\t" not in raw:
            raw = self._bytes(row, length)
        # No accepted caption ends in a CR; a line of captions alone may.
        caption = raw.partition(b"\t")[0].removesuffix(b"\r").decode("utf-8", "replace")
        if caption_hash(caption) != int(self.caption_hash[row]):
            raise self._changed(row)
        return caption

    def captions(self) -> "Captions":
        """Return the captions of all rows, read whenever they are iterated over."""
        return Captions(self)

    def encoded_image(self, row: int) -> bytes:
        """Return the encoded image (JPEG, PNG, …) of a row."""
        image = self.read(row).image
        assert image is not None, "the TSV has images"
        return image

    def _bytes(self, row: int, length: int) -> bytes:
        file = int(self.file[row])
        try:
            if file not in self._descriptors:
                # Two threads that meet here open one each; either is closed with the index.
                descriptor = os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, descriptor)
                self._descriptors[file] = descriptor
            return os.pread(self._descriptors[file], length, int(self.offset[row]))
        except OSError as error:
            raise DataError(
                f"{self.files[file]}: cannot be read ({error.strerror}); "
                "pull the data version again"
            ) from error

    def _changed(self, row: int) -> DataError:
        return DataError(
            f"{self.where(row)}: not the line that was profiled, so the file changed; "
            "validate it again"
        )


@dataclass(frozen=True)
class Captions:
    """The captions of an index, never all in memory."""

    index: PairIndex

    def __iter__(self) -> Iterator[str]:
        return map(self.index.caption, range(len(self.index)))


def index_pairs(sources: Sequence[PairSource]) -> PairIndex:
    """Return the index of the accepted lines of the sources, of equal columns, in their order.

    Raises:
        DataError: a profile is missing or damaged, a TSV is not of the size that its profile saw,
            or a line of some 32 to 63 in it is another.
    """
    lines, profiles = zip(*map(_accepted, sources), strict=True)
    profile = pa.concat_tables(profiles)
    index = PairIndex(
        files=tuple(source.tsv for source in sources),
        file=np.repeat(np.arange(len(sources)), [len(each) for each in lines]),
        line=np.concatenate(lines),
        offset=_values(profile["offset"]),
        length=_values(profile["length"]),
        caption_hash=_values(profile["caption_hash"]),
        image_hash=_values(profile["image_hash"]),
        columns=sources[0].columns,
    )

    # A file whose content changed is refused before hours are spent on it.
    for file in range(len(sources)):
        rows = np.flatnonzero(index.file == file)
        for row in rows[:: max(1, len(rows) // SAMPLED_LINES)]:
            index.read(int(row))
    return index


def _accepted(source: PairSource) -> tuple[Rows, pa.Table]:
    """Return the numbers and the profile rows of the accepted lines."""
    profile = read_profile(source.profile, INDEXED_COLUMNS)

    # The last profiled line, with its newline or without, ends where the file does.
    end = profile["offset"][-1].as_py() + profile["length"][-1].as_py()
    if not source.tsv.is_file() or source.tsv.stat().st_size not in (end, end + 1):
        raise DataError(
            f"{source.tsv}: missing, or not the file that was profiled; validate the data again"
        )

    # A profile has a row for every line, so the number of a row is that of its line.
    rows = pc.indices_nonzero(pc.is_null(profile["fault"]))
    accepted = profile if len(rows) == len(profile) else profile.take(rows)
    return np.from_dlpack(rows).astype(np.int64) + 1, accepted


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    # Arrow's own to_numpy imports pandas, which costs more than all the rest of opening.
    return np.concatenate([np.from_dlpack(chunk.fill_null(0)) for chunk in column.chunks])


def carve_valid(
    index: PairIndex, share: float, seed: int, keys: Sequence[npt.NDArray[Any]] | None = None
) -> tuple[PairIndex, PairIndex]:
    """Split an index into (train, valid) so that no value of a key is in both.

    ``keys`` are arrays of N values, by default the captions and the images. Pairs whose values
    occur once are drawn; where they are too few, whole groups of pairs that share some.
    """
    keys = [index.caption_hash, index.image_hash] if keys is None else keys
    alone = np.flatnonzero(np.logical_and.reduce([_occurs_once(key) for key in keys]))
    wanted = round(share * len(index))

    if len(alone) >= wanted:
        chosen = np.sort(np.random.default_rng(seed).permutation(alone)[:wanted])
    else:
        groups = group_rows(keys)
        chosen = hold_out(groups, np.zeros(len(index), dtype=np.bool_), wanted, seed)
    return index.take(np.setdiff1d(np.arange(len(index)), chosen)), index.take(chosen)


def without_leaks(index: PairIndex, leaks: Sequence[Rows]) -> PairIndex:
    """Return an index without the lines that share something with test.

    ``leaks`` are the numbers of these lines for each of the index's files.
    """
    is_leak = np.zeros(len(index), dtype=np.bool_)
    for file, lines in enumerate(leaks):
        is_leak |= (index.file == file) & np.isin(index.line, lines)
    return index.take(np.flatnonzero(~is_leak))


def _occurs_once(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.equal(counts[inverse], 1)
