"""What changed between two data versions, read from what validation left of them: rows in and out,
and drift.

A row is known by its caption's and its picture's hash, 64 bits a row in memory; two million rows a
split take seconds.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from model.errors import DataError
from model.pairs.drift import Mover, drift, read_counts
from model.pairs.profile import read_profile
from model.pairs.repeats import pair_hashes
from tasks.runtime.environment import report_folder
from tasks.runtime.records import Record
from tasks.validation.leaks import comparison_files

PROFILE_SUFFIX = ".profile.parquet"


class Drift(Record):
    """A column that moved by more than chance: its index, what chance alone gives, and the values that moved most."""

    column: str
    psi: float
    noise: float
    movers: list[str]


class SplitDifference(Record):
    """Accepted rows of a split in two versions, and how many came and went; a row that stands twice counts twice."""

    split: str
    before: int
    after: int
    rows_in: int
    rows_out: int
    drifted: list[Drift]


def difference(reference: str, current: str) -> list[SplitDifference]:
    """Return the difference of each split that either version has.

    Raises:
        DataError: a version was not validated on this machine.
    """
    before, after = _profiles(reference), _profiles(current)
    drifted = {name: _drifted(reference, current, name) for name in before.keys() & after.keys()}
    return [
        _rows_in_and_out(name, before.get(name), after.get(name), drifted.get(name, []))
        for name in sorted(before.keys() | after.keys())
    ]


def _profiles(version: str) -> dict[str, Path]:
    folder = report_folder(version)
    found = {
        path.name.removesuffix(PROFILE_SUFFIX): path for path in folder.glob(f"*{PROFILE_SUFFIX}")
    }
    if not found:
        raise DataError(
            f"{folder}: no profiles of data version {version}; check it out (`git checkout COMMIT data.dvc`) and make "
            "them with `python -m flows validate --data data`"
        )
    return found


def _drifted(reference: str, current: str, split: str) -> list[Drift]:
    old, new = (
        read_counts(comparison_files(report_folder(version), split).counts)
        for version in (reference, current)
    )
    return [
        Drift(
            column=each.column,
            psi=each.psi,
            noise=each.noise,
            movers=[_told(mover) for mover in each.movers],
        )
        for each in drift(old, new)
        if each.excess > 0
    ]


def _told(mover: Mover) -> str:
    return f"{mover.value} {mover.before:.1%} → {mover.after:.1%}"


def _rows_in_and_out(
    name: str, before: Path | None, after: Path | None, drifted: list[Drift]
) -> SplitDifference:
    old, old_counts = _rows(before)
    new, new_counts = _rows(after)
    _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    kept = int(np.minimum(old_counts[in_old], new_counts[in_new]).sum())
    total_old, total_new = int(old_counts.sum()), int(new_counts.sum())
    return SplitDifference(
        split=name,
        before=total_old,
        after=total_new,
        rows_in=total_new - kept,
        rows_out=total_old - kept,
        drifted=drifted,
    )


def _rows(profile: Path | None) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the distinct accepted rows of a profile, hashed to 64 bits, and how often each stands there."""
    if profile is None:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    table = read_profile(profile, ["caption_hash", "image_hash", "fault"])
    accepted = table.filter(pc.is_null(table["fault"]))
    caption, image = (accepted[name].to_numpy() for name in ("caption_hash", "image_hash"))
    return np.unique(pair_hashes(caption, image), return_counts=True)
