"""Which accepted pairs a stage reads, by profiles, splits, leaks and the carved valid."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

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
from model.pairs.splits import Splits, find_split_files, read_side_table
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
    # Pretraining files are one split; a carved valid is taken from train.
    own = "train" if name == "finetune" or (name == "valid" and splits.valid is None) else name
    is_pretrain = name in ("pretrain", RETENTION)
    names = [key for key in tsvs if key == own or (is_pretrain and key.startswith(PRETRAIN))]
    index = index_pairs([PairSource(tsvs[key], profile_path(folder, key)) for key in names])

    if splits.valid is None and names == ["train"]:
        carved = carve_valid(index, run.config.data.valid_share, run.config.seed)
        index = carved[1] if name == "valid" else carved[0]
    if is_pretrain:
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

    # The product of each pair; a pair of a TSV without side table has its own.
    ids = []
    files = [(index, *each) for index in (pretrain, train) for each in enumerate(index.files)]
    for index, number, tsv in files:
        lines, table = index.line[index.file == number], read_side_table(tsv, required=False)
        if table is None:
            ids.append(pa.array([f"{tsv}:{line}" for line in lines.tolist()]))
        else:
            ids += table["id"].take(lines - 1).chunks

    # Pairs of equal captions, images or products go together.
    encoded = pa.chunked_array(ids, pa.string()).combine_chunks().dictionary_encode()
    captions, images = (
        np.concatenate([getattr(index, key) for index in (pretrain, train)])
        for key in ("caption_hash", "image_hash")
    )
    group = group_rows([captions, images, encoded.indices.to_numpy()])
    return hold_out(group, np.arange(len(group)) >= len(pretrain), wanted, run.config.seed)
