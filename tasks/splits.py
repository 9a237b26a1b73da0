"""Which accepted pairs a stage reads: how profiles, splits, leaks and the carved valid fit together."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import DataError
from model.profiles import profile_files
from model.repeats import read_repeats
from model.splits import Splits, find_splits
from tasks.records import Run, Validation

if TYPE_CHECKING:
    from model.dataset import PairIndex

# What stands in names of reports, in pages and in terminals.
STEM = re.compile(r"\w[\w.-]{0,63}")
PRETRAIN = "pretrain-"


def tsv_files(splits: Splits) -> dict[str, Path]:
    """Return the TSVs of the splits by the name under which they are profiled.

    Raises:
        DataError: a pretraining file has a name that no report can have.
    """
    for path in splits.pretrain:
        if not STEM.fullmatch(path.stem):
            raise DataError(f"{path}: rename it; letters, digits, '.', '_' and '-' are allowed, at most 64")
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


def split_index(run: Run, validation: Validation, name: str) -> "PairIndex":
    """Return the index of a split: ``pretrain``, ``finetune`` (train less a carved valid), ``valid`` or ``test``.

    Pairs that share an image, a look-alike, words or a product with test are in no other split; unless data.on_leak
    is drop, there are none.

    Raises:
        DataError: the split has no accepted pair.
    """
    from model.dataset import PairSource, carve_valid, index_pairs, without_leaks

    splits = find_splits(run.data.folder)
    tsvs, folder = tsv_files(splits), validation.profiles
    names = [key for key in tsvs if _holds(key, name, splits.valid is None)]
    index = index_pairs([PairSource(tsvs[key], profile_path(folder, key)) for key in names])
    if splits.valid is None and names == ["train"]:
        carved = carve_valid(index, run.config.data.valid_share, run.config.seed)
        index = carved[1] if name == "valid" else carved[0]
    if name != "test":
        index = without_leaks(index, [read_repeats(leaks_path(folder, key))["line"].to_numpy() for key in names])
    if not len(index):
        raise DataError(f"{run.data.folder}: no accepted pair in {name}; see {validation.docs}")
    return index


def _holds(tsv: str, name: str, is_carved: bool) -> bool:
    """Return whether a TSV holds pairs of a split."""
    if name == "pretrain":
        return tsv.startswith(PRETRAIN)
    return tsv == ("train" if name == "finetune" or (name == "valid" and is_carved) else name)
