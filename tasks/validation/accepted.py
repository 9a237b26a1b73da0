"""Which accepted pairs a stage reads, by profiles, splits, leaks and the carved valid."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.config.leaks import LeakPolicy
from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.arrays import Rows
from model.pairs.holdout import group_rows, hold_out
from model.pairs.index import (
    PairIndex,
    PairSource,
    carve_valid,
    index_pairs,
    without_leaks,
)
from model.pairs.profile import profile_files
from model.pairs.repeats import read_repeats
from model.pairs.splits import Splits, canonical_ids, find_split_files, read_side_table
from tasks.runtime.records import Run, Validation

PRETRAIN = "pretrain-"
RETENTION = "retention"


def tsv_files(splits: Splits) -> dict[str, Path]:
    """Return the TSVs of the splits by the names of their profiles.

    Raises:
        DataError: a pretraining file has a name that no report can have.
    """
    # A stem is part of the names of reports, of pages and of lines in a terminal.
    for path in splits.pretrain:
        if not re.fullmatch(r"\w[\w.-]{0,63}", path.stem):
            raise DataError(
                f"{path}: rename it; letters, digits, '.', '_' and '-' are allowed, at most 64"
            )

    pretrain = {f"{PRETRAIN}{path.stem}": path for path in splits.pretrain}
    finetune = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    return pretrain | {name: path for name, path in finetune.items() if path is not None}


def profile_path(folder: Path, name: str) -> Path:
    """Return the profile of a split."""
    return profile_files(folder, name).table


def leaks_path(folder: Path, name: str) -> Path:
    """Return the table of a split's lines that share something with test."""
    return folder / f"{name}.leaks.parquet"


def barred_kinds(limits: DataConfig, *policies: LeakPolicy) -> pa.Array:
    """List the kinds of leaks of some policies, as Arrow compares them."""
    kinds = [kind for policy in policies for kind in limits.on_leak.kinds(policy)]
    return pa.array(kinds, pa.string())


def split_index(run: Run, validation: Validation, name: str) -> PairIndex:
    """Return the index of a split.

    Splits are ``pretrain``, ``finetune`` (train less a carved valid), ``valid``, ``test``, and
    ``retention``: the pretraining pairs that no stage trains on, perhaps none. Pairs that share an
    image, a look-alike, words or a product with test are in no other split, unless data.on_leak
    allows it.

    Raises:
        DataError: the split has no accepted pair.
    """
    splits, limits = find_split_files(run.data.folder), run.config.data
    tsvs, folder = tsv_files(splits), validation.profiles
    # Pretraining files are one split; a carved valid is taken from train.
    own = "train" if name == "finetune" or (name == "valid" and splits.valid is None) else name
    is_pretrain = name in ("pretrain", RETENTION)
    names = [key for key in tsvs if key == own or (is_pretrain and key.startswith(PRETRAIN))]
    index = index_pairs([PairSource(tsvs[key], profile_path(folder, key)) for key in names])

    if splits.valid is None and names == ["train"]:
        # Captions that images of many products share cannot keep train and valid apart.
        keys = _keys(run, [index]) if "caption" in limits.on_leak.kinds("allow") else None
        carved = carve_valid(index, limits.valid_share, run.config.seed, keys)
        index = carved[1] if name == "valid" else carved[0]
    if is_pretrain:
        is_held = np.isin(np.arange(len(index)), _held_out(run, validation, index))
        index = index.take(np.flatnonzero(is_held if name == RETENTION else ~is_held))

    if name != "test" and len(index):
        barred = barred_kinds(limits, "refuse", "drop")
        leaks = [read_repeats(leaks_path(folder, key)) for key in names]
        lines = [each.filter(pc.is_in(each["kind"], barred))["line"].to_numpy() for each in leaks]
        index = without_leaks(index, lines)
        if not len(index) and name != RETENTION:
            raise DataError(
                f"{run.data.folder}: every accepted pair of {name} shares something with test "
                "(data.on_leak), so none is left; split the data anew, or allow a kind "
                "(--set data.on_leak.caption=allow)"
            )
    if not len(index) and name != RETENTION:
        raise DataError(f"{run.data.folder}: no accepted pair in {name}; see {validation.docs}")
    return index


def _held_out(run: Run, validation: Validation, pretrain: PairIndex) -> Rows:
    """Return the rows of the pretraining pairs that are held out; train has nothing of them."""
    wanted = round(run.config.data.pretrain_valid_share * len(pretrain))
    if not wanted:
        return np.empty(0, np.int64)
    tsvs = tsv_files(find_split_files(run.data.folder))
    train = index_pairs([PairSource(tsvs["train"], profile_path(validation.profiles, "train"))])

    # Pairs of equal captions, images or products go together.
    group = group_rows(_keys(run, [pretrain, train]))
    return hold_out(group, np.arange(len(group)) >= len(pretrain), wanted, run.config.seed)


def _keys(run: Run, indexes: list[PairIndex]) -> list[npt.NDArray[Any]]:
    """List what keeps pairs together: images, products, and captions unless many share one."""
    # The product of each pair; a pair without an id has its own.
    ids = []
    files = [(index, *each) for index in indexes for each in enumerate(index.files)]
    for index, number, tsv in files:
        lines, table = index.line[index.file == number], read_side_table(tsv, required=False)
        own = pa.array([f"{tsv}:{line}" for line in lines.tolist()])
        known = pa.nulls(len(lines), pa.string())
        if table is not None:
            known = canonical_ids(table["id"].take(lines - 1)).combine_chunks()
        ids.append(pc.coalesce(known, own))
    products = pa.chunked_array(ids, pa.string()).combine_chunks().dictionary_encode()

    shared = ["image_hash"]
    if "caption" not in run.config.data.on_leak.kinds("allow"):
        shared.insert(0, "caption_hash")
    hashes = [np.concatenate([getattr(index, key) for index in indexes]) for key in shared]
    return [*hashes, products.indices.to_numpy()]
