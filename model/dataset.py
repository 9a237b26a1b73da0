"""Random access to the accepted pairs of a split, and the order in which training reads them.

A TSV is opened by memory map and read by the offsets of its profile: nothing is copied or unpacked, and a shuffled read
costs about 5 µs before decoding. The order of an epoch is a pure function of (seed, epoch), every augmentation one of
(seed, epoch, position), so resuming never replays what was read before. Batches are decoded ahead in threads, because
decoding and resizing run outside the interpreter's lock; no worker process can outlive a run.
"""

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from model.errors import DataError, FaultReason
from model.images import MAX_SIDE
from model.pairs import Pair, parse_line
from model.pixels import centre_crop, decode_image, random_crop
from model.profiles import read_profile

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


class PairSource(NamedTuple):
    """A TSV and the profile that says where its pairs lie."""

    tsv: Path
    profile: Path


@dataclass
class PairIndex:
    """Where the accepted pairs of a split lie: one row a pair, N rows."""

    files: tuple[Path, ...]
    file: Rows
    line: Rows
    offset: Rows
    length: Rows
    caption_hash: Hashes
    image_hash: Hashes
    _maps: dict[int, mmap.mmap] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.offset)

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
        )

    def where(self, row: int) -> str:
        """Return ``train.tsv line 41`` for messages."""
        return f"{self.files[self.file[row]]} line {self.line[row]}"

    def read(self, row: int) -> Pair:
        """Return the caption and the encoded image of a row.

        Raises:
            DataError: the line is no pair any more, so the file changed after it was profiled.
        """
        start = self.offset[row]
        pair = parse_line(self._map(int(self.file[row]))[start : start + self.length[row]])
        if isinstance(pair, FaultReason):
            raise DataError(f"{self.where(row)}: {pair}, although its profile accepted it; validate the data again")
        return pair

    def caption(self, row: int) -> str:
        """Return the caption of a row."""
        caption = self.read(row).caption
        assert caption is not None, "an index is built over pairs"
        return caption

    def encoded_image(self, row: int) -> bytes:
        """Return the encoded image (JPEG, PNG, …) of a row."""
        image = self.read(row).image
        assert image is not None, "an index is built over pairs"
        return image

    def _map(self, file: int) -> mmap.mmap:
        if file not in self._maps:
            try:
                with open(self.files[file], "rb") as opened:
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: the file is empty
                raise DataError(f"{self.files[file]}: cannot be read ({error}); pull the data version again") from None
        return self._maps[file]


def index_pairs(sources: Sequence[PairSource]) -> PairIndex:
    """Return the index of the accepted lines of the sources, in the order of the files.

    Raises:
        DataError: a profile is missing or damaged, or a TSV is not of the size that its profile saw.
    """
    profiles = [_accepted(source) for source in sources]
    return PairIndex(
        files=tuple(source.tsv for source in sources),
        file=np.repeat(np.arange(len(profiles)), [len(profile) for profile in profiles]),
        line=_column(profiles, "line").astype(np.int64),
        offset=_column(profiles, "offset").astype(np.int64),
        length=_column(profiles, "length").astype(np.int64),
        caption_hash=_column(profiles, "caption_hash"),
        image_hash=_column(profiles, "image_hash"),
    )


def _accepted(source: PairSource) -> pa.Table:
    profile = read_profile(source.profile)
    # The last profiled line, with its newline or without, ends where the file does.
    end = profile["offset"][-1].as_py() + profile["length"][-1].as_py()
    if not source.tsv.is_file() or source.tsv.stat().st_size not in (end, end + 1):
        raise DataError(f"{source.tsv}: missing, or not the file that was profiled; validate the data again")
    return profile.filter(profile["fault"].is_null())


def _column(profiles: Sequence[pa.Table], name: str) -> npt.NDArray[Any]:
    return np.concatenate([profile[name].to_numpy() for profile in profiles])


def carve_valid(index: PairIndex, share: float, seed: int) -> tuple[PairIndex, PairIndex]:
    """Split an index into (train, valid) so that no caption and no image is in both.

    Only pairs whose caption and image occur once are candidates for valid: a repeated one would leak.
    """
    alone = _occurs_once(index.caption_hash) & _occurs_once(index.image_hash)
    candidates = np.flatnonzero(alone)
    wanted = min(round(share * len(index)), len(candidates))
    chosen = np.sort(np.random.default_rng(seed).permutation(candidates)[:wanted])
    rest = np.setdiff1d(np.arange(len(index)), chosen)
    return index.take(rest), index.take(chosen)


def without_leaks(index: PairIndex, test: PairIndex) -> PairIndex:
    """Return an index without the pairs whose caption or image occurs in test."""
    leaks = np.isin(index.caption_hash, test.caption_hash) | np.isin(index.image_hash, test.image_hash)
    return index.take(np.flatnonzero(~leaks))


def _occurs_once(values: Hashes) -> npt.NDArray[np.bool_]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    once: npt.NDArray[np.bool_] = counts[inverse] == 1
    return once


def epoch_order(pairs: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Return the batches of an epoch, a pure function of its arguments; the last, short batch is left out."""
    order = np.random.default_rng((seed, epoch)).permutation(pairs)
    return [order[start : start + batch_size] for start in range(0, pairs - batch_size + 1, batch_size)]


@dataclass(frozen=True)
class Crop:
    """How a training image is cut; ``min_scale`` 1 without flip is the plain centre crop of evaluation."""

    side: int
    min_scale: float = 1.0
    flip: bool = False
    seed: int = 0
    epoch: int = 0


class Batch(NamedTuple):
    """Decoded pairs: uint8 images [B, 3, side, side] and their captions."""

    rows: Rows
    images: torch.Tensor
    captions: list[str]


def load_batch(index: PairIndex, rows: Rows, crop: Crop) -> Batch:
    """Read, decode and crop the pairs of the given rows.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    pairs = [index.read(int(row)) for row in rows]
    images = [_input_image(index, int(row), pair, crop) for row, pair in zip(rows, pairs, strict=True)]
    return Batch(rows, torch.stack(images), [pair.caption or "" for pair in pairs])


def _input_image(index: PairIndex, row: int, pair: Pair, crop: Crop) -> torch.Tensor:
    image = decode_image(pair.image or b"", max_pixels=MAX_SIDE**2)  # the profile judged it by the config's limit
    if isinstance(image, FaultReason):
        raise DataError(f"{index.where(row)}: {image}, although its profile accepted it; validate the data again")
    if crop.min_scale >= 1 and not crop.flip:
        return centre_crop(image, crop.side)
    entropy = np.random.SeedSequence((crop.seed, crop.epoch, row)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    return random_crop(image, crop.side, crop.min_scale, crop.flip, generator)


def prefetch(items: Iterable[Item], load: Callable[[Item], Loaded], threads: int, depth: int = 4) -> Iterator[Loaded]:
    """Yield ``load(item)`` in order, loading up to ``depth`` items ahead in threads; 0 threads load in line."""
    if threads == 0:
        yield from map(load, items)
        return
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
