"""Which accepted pairs a stage reads, by profiles, splits, leaks and the carved valid."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from model.errors import DataError
from model.pairs.holdout import group_rows, hold_out
from model.pairs.index import (
    PairIndex,
    PairSource,
    Rows,
    carve_valid,
    index_pairs,
    without_leaks,
)
from model.pairs.profile import profile_files
from model.pairs.repeats import read_repeats
from model.pairs.splits import Splits, find_split_files, read_side_table
from tasks.runtime.records import Run, Validation

# What may be part of names of reports, of pages and of lines in a terminal.
STEM = re.compile(r"\w[\w.-]{0,63}")
PRETRAIN = "pretrain-"
RETENTION = "retention"
HELD_OUT_FROM = ("pretrain", RETENTION)


def tsv_files(splits: Splits) -> dict[str, Path]:
    """Return the TSVs of the splits by the names of their profiles.

    Raises:
        DataError: a pretraining file has a name that no report can have.
    """
    for path in splits.pretrain:
        if not STEM.fullmatch(path.stem):
            raise DataError(
                f"{path}: rename it; letters, digits, '.', '_' and '-' are allowed, at most 64"
            )
    named = {f"{PRETRAIN}{path.stem}": path for path in splits.pretrain}
    named["train"] = splits.train
    if splits.valid is not None:
        named["valid"] = splits.valid
    return named | {"test": splits.test}


def profile_path(folder: Path, name: str) -> Path:
    """Return the profile of a split."""
    return profile_files(folder, name).table


def leaks_path(folder: Path, name: str) -> Path:
    """Return the table of a split's lines that share something with test."""
    return folder / f"{name}.leaks.parquet"


def split_index(run: Run, validation: Validation, name: str) -> PairIndex:
    """Return the index of a split.

    Splits are ``pretrain``, ``finetune`` (train less a carved valid), ``valid``, ``test``, and
    ``retention``: the pretraining pairs that no stage trains on, perhaps none. Pairs that share an
    image, a look-alike, words or a product with test are in no other split; unless data.on_leak is
    drop, there are none.

    Raises:
        DataError: the split has no accepted pair.
    """
    splits = find_split_files(run.data.folder)
    tsvs, folder = tsv_files(splits), validation.profiles
    names = [key for key in tsvs if _holds(key, name, splits.valid is None)]
    index = index_pairs([PairSource(tsvs[key], profile_path(folder, key)) for key in names])

    if splits.valid is None and names == ["train"]:
        carved = carve_valid(index, run.config.data.valid_share, run.config.seed)
        index = carved[1] if name == "valid" else carved[0]
    if name in HELD_OUT_FROM:
        is_held = np.isin(np.arange(len(index)), _held_out(run, validation, index))
        index = index.take(np.flatnonzero(is_held if name == RETENTION else ~is_held))

    if name != "test":
        leaking = [read_repeats(leaks_path(folder, key))["line"].to_numpy() for key in names]
        index = without_leaks(index, leaking)
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
    ids = pa.chunked_array(
        [chunk for index in (pretrain, train) for chunk in _product_ids(index).chunks], pa.string()
    )
    products = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    captions, images = (
        np.concatenate([getattr(index, key) for index in (pretrain, train)])
        for key in ("caption_hash", "image_hash")
    )
    group = group_rows([captions, images, products])
    return hold_out(group, np.arange(len(group)) >= len(pretrain), wanted, run.config.seed)


def _product_ids(index: PairIndex) -> pa.ChunkedArray:
    """Return the product id of each pair; a pair of a TSV without side table gets its own."""
    ids = []
    for number, tsv in enumerate(index.files):
        lines, products = index.line[index.file == number], read_side_table(tsv, required=False)
        if products is None:
            ids.append(pa.array([f"{tsv}:{line}" for line in lines.tolist()]))
        else:
            ids += products["id"].take(lines - 1).chunks
    return pa.chunked_array(ids, pa.string())


def _holds(tsv: str, name: str, is_carved: bool) -> bool:
    """Return whether a TSV holds pairs of a split."""
    if name in HELD_OUT_FROM:
        return tsv.startswith(PRETRAIN)
    return tsv == ("train" if name == "finetune" or (name == "valid" and is_carved) else name)
