"""Score versions in this very run on its test split, so that the gate compares like with like.

Imports torch.
"""

import numpy as np
import numpy.typing as npt
from mlflow.entities.model_registry import ModelVersion

from model.errors import PromotionRefused, typed
from model.evaluation.retrieval import relate
from model.evaluation.split import evaluate_split
from model.pairs.splits import find_split_files, read_side_table
from model.towers.folder import load_towers
from tasks.promotion.gate import Scored, SliceColumns, SliceLabels
from tasks.registry.files import loadable_folder
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import split_index
from tasks.validation.inputs import split_input


def score_version(run: Run, validation: Validation, version: ModelVersion) -> Scored:
    """Return the result of a version on the run's test split.

    Raises:
        PromotionRefused: its files are not what was registered, or an embedding is NaN or infinite.
    """
    towers = load_towers(loadable_folder(version), run.config.device, run.config.precision)
    settings = run.config.evaluate
    test = split_input(run, validation, "test", towers, crops_centre=True)

    try:
        result = evaluate_split(
            towers, test, settings.batch_size, settings.block_rows, run.config.workers
        )
    except ValueError as error:
        raise PromotionRefused(
            f"{version.name} version {version.version} cannot be scored ({error}); "
            f"choose another version, or go back with `{typed('rollback')}`"
        ) from error
    return Scored(result, run.data.version)


def slice_columns(run: Run, validation: Validation, wanted: set[str]) -> SliceColumns:
    """Return the wanted side-table columns for test's captions and images, if they are there."""
    splits = find_split_files(run.data.folder)
    table = read_side_table(splits.test, required=False) if wanted else None
    if table is None:
        return {}

    test = split_index(run, validation, "test")
    related = relate(test.caption_hash.tolist(), test.image_hash.tolist())
    columns = {}
    for name in sorted(wanted.intersection(table.column_names)):
        label_N: npt.NDArray[np.str_] = np.array(
            table[name].take(test.line - 1).to_pylist(), dtype=np.str_
        )
        columns[name] = SliceLabels(
            label_N[related.caption_row.numpy()], label_N[related.image_row.numpy()]
        )
    return columns
