"""Which accepted pairs a stage reads: how profiles, splits and the carved valid fit together."""

from typing import TYPE_CHECKING

from model.errors import DataError
from model.splits import find_splits
from tasks.records import Run, Validation
from tasks.validation import profile_path, tsv_files

if TYPE_CHECKING:
    from model.dataset import PairIndex


def split_index(run: Run, validation: Validation, name: str) -> "PairIndex":
    """Return the index of a split: ``pretrain``, ``finetune`` (train less a carved valid), ``valid`` or ``test``.

    Pairs whose caption or image occurs in test are in no other split; unless data.on_leak is drop, there are none.

    Raises:
        DataError: the split has no accepted pair.
    """
    from model.dataset import PairSource, carve_valid, index_pairs, without_leaks

    splits = find_splits(run.data.folder)
    sources = {key: PairSource(tsv, profile_path(validation.profiles, key)) for key, tsv in tsv_files(splits).items()}
    if name == "pretrain":
        index = index_pairs([source for key, source in sources.items() if key.startswith("pretrain-")])
    elif name == "test" or (name == "valid" and splits.valid is not None):
        index = index_pairs([sources[name]])
    else:
        train = index_pairs([sources["train"]])
        if splits.valid is None:
            carved = carve_valid(train, run.config.data.valid_share, run.config.seed)
            index = carved[1] if name == "valid" else carved[0]
        else:
            index = train
    if name != "test":
        index = without_leaks(index, index_pairs([sources["test"]]))
    if not len(index):
        raise DataError(f"{run.data.folder}: no accepted pair in {name}; see {validation.docs}")
    return index
