"""What changed between two data versions that were validated: rows in and out, and drift.

A row is known by the hashes of its caption and its image, 64 bits a row in memory; two million rows
a split take seconds.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from model.errors import DataError, typed
from model.pairs.drift import ColumnDrift, drift, read_counts
from model.pairs.profile import read_profile
from model.pairs.repeats import pair_hashes
from tasks.runtime.environment import report_folder
from tasks.validation.leaks import comparison_files

PROFILE_SUFFIX = ".profile.parquet"


class SplitDifference(NamedTuple):
    """Accepted rows of a split in two versions, how many came and went, and what drifted.

    A row that is there twice counts twice; only drift beyond chance is listed.
    """

    split: str
    before: int
    after: int
    rows_in: int
    rows_out: int
    drifted: list[ColumnDrift]


def difference(reference: str, current: str) -> list[SplitDifference]:
    """Return the difference of each split that either version has.

    Raises:
        DataError: a version was not validated on this machine.
    """
    before, after = _profiles(reference), _profiles(current)
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, old_counts = _rows(before.get(name))
        new, new_counts = _rows(after.get(name))
        _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
        kept = int(np.minimum(old_counts[in_old], new_counts[in_new]).sum())
        total_old, total_new = int(old_counts.sum()), int(new_counts.sum())

        drifted = list[ColumnDrift]()
        if name in before and name in after:
            counts = [
                read_counts(comparison_files(report_folder(version), name).counts)
                for version in (reference, current)
            ]
            drifted = [column for column in drift(*counts) if column.excess > 0]
        found.append(
            SplitDifference(name, total_old, total_new, total_new - kept, total_old - kept, drifted)
        )
    return found


def _profiles(version: str) -> dict[str, Path]:
    folder = report_folder(version)
    found = {
        path.name.removesuffix(PROFILE_SUFFIX): path for path in folder.glob(f"*{PROFILE_SUFFIX}")
    }
    if not found:
        raise DataError(
            f"{folder}: no profiles of data version {version}; check it out "
            "(`git checkout COMMIT data.dvc`) and make them with "
            f"`{typed('validate --data data')}`"
        )
    return found


def _rows(profile: Path | None) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the distinct accepted rows of a profile, hashed, and how often each is there."""
    if profile is None:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    table = read_profile(profile, ["caption_hash", "image_hash", "fault"])
    accepted = table.filter(pc.is_null(table["fault"]))
    caption, image = (accepted[name].to_numpy() for name in ("caption_hash", "image_hash"))
    return np.unique(pair_hashes(caption, image), return_counts=True)
