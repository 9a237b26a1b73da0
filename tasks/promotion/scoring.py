"""Score versions in this very run on its test split, so that the gate compares like with like."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from model.pairs.splits import find_split_files, read_side_table
from tasks.promotion.gate import Columns, Labels, Scored, SliceLabels
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import split_index
from tasks.validation.inputs import split_input


def score(run: Run, validation: Validation, folder: Path) -> Scored:
    """Return the result of a model folder on the run's test split.

    Raises:
        ValueError: an embedding is NaN or infinite.
    """
    from model.evaluation.split import evaluate_split
    from model.towers.folder import load_towers

    towers = load_towers(folder, run.config.device, run.config.precision)
    settings = run.config.evaluate
    test = split_input(run, validation, "test", towers, crops_centre=True)
    result = evaluate_split(
        towers, test, settings.batch_size, settings.block_rows, run.config.workers
    )
    return Scored(result, run.data.version)


def slice_columns(run: Run, validation: Validation, wanted: Iterable[str]) -> Columns:
    """Return the values of the wanted side-table columns for test's captions and images; absent ones are left out."""
    from model.evaluation.retrieval import relate

    names = set(wanted)
    tsv = find_split_files(run.data.folder).test
    table = read_side_table(tsv, required=False) if names else None
    if table is None:
        return {}
    test = split_index(run, validation, "test")
    related = relate(test.caption_hash.tolist(), test.image_hash.tolist())
    columns = {}
    for name in sorted(names.intersection(table.column_names)):
        label_N: Labels = np.array(table[name].take(test.line - 1).to_pylist(), dtype=np.str_)
        columns[name] = SliceLabels(
            label_N[related.caption_row.numpy()], label_N[related.image_row.numpy()]
        )
    return columns
