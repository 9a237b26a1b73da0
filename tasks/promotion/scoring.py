"""Score versions in this very run on its test split, so that the gate compares like with like.

Imports torch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from model.embeddings.embed import embed_pairs
from model.errors import PromotionRefused, typed
from model.evaluation.exchange import sources_of_luck
from model.evaluation.retrieval import RelevantPairs, RetrievalResult, evaluate_retrieval, relate
from model.pairs.arrays import Rows
from model.pairs.index import PairIndex
from model.pairs.splits import find_split_files, product_ids, read_side_table
from model.towers.folder import load_towers
from tasks.promotion.gate import Compared, Scored, SliceColumns, SliceLabels
from tasks.promotion.traces import find_seen_pairs
from tasks.registry.files import loadable_folder
from tasks.runtime.records import Run, Validation
from tasks.training.base_weights import base_weights
from tasks.validation.accepted import split_index
from tasks.validation.inputs import index_input


def choose_pairs(
    run: Run, validation: Validation, versions: Sequence[ModelVersion], columns: Collection[str]
) -> tuple[Rows, Compared]:
    """Choose the rows of test that versions are compared on: those that none was trained on.

    Where none is left, the rows are all of test, which is not compared. ``columns`` of the side
    table are read for slices.

    Raises:
        DataError: a profile is missing or damaged, or test has no accepted pair.
    """
    test = split_index(run, validation, "test")
    table = read_side_table(find_split_files(run.data.folder).test, required=False)
    product_N = [""] * len(test) if table is None else product_ids(table.take(test.line - 1))
    seen = find_seen_pairs(run, validation, test.line, list(versions))
    unseen = np.flatnonzero(~seen.is_seen)
    rows = unseen if len(unseen) else np.arange(len(test))

    # Products are counted by those of their queries that are left.
    left = test.take(rows)
    related = _related(left)
    every = sources_of_luck(_related(test), test.caption_hash, test.image_hash, product_N)
    luck = sources_of_luck(
        related, left.caption_hash, left.image_hash, [product_N[row] for row in rows]
    )
    return rows, Compared(
        luck=luck,
        columns=_slice_columns(left, table, columns),
        products=luck.products if len(unseen) else 0,
        all_products=every.products,
        left_out=seen.by_kind,
        unknown=seen.unknown,
    )


def score_version(run: Run, validation: Validation, version: ModelVersion, rows: Rows) -> Scored:
    """Return the result of a version on some rows of the run's test split.

    Raises:
        PromotionRefused: its files are not what was registered, or an embedding is NaN or infinite.
    """
    try:
        return _score(run, validation, loadable_folder(version), rows)
    except ValueError as error:
        raise PromotionRefused(
            f"{version.name} version {version.version} cannot be scored ({error}); "
            f"choose another version, or go back with `{typed('rollback')}`"
        ) from error


def score_base(run: Run, validation: Validation, rows: Rows) -> Scored:
    """Return the result of the run's base weights on some rows of its test split.

    Raises:
        PromotionRefused: an embedding is NaN or infinite.
    """
    try:
        return _score(run, validation, base_weights(run), rows)
    except ValueError as error:
        raise PromotionRefused(
            f"the base weights cannot be scored ({error}); set model.pretrained to others"
        ) from error


def _score(run: Run, validation: Validation, folder: Path, rows: Rows) -> Scored:
    """Embed all of test once; rank the wanted rows, and all where these are fewer."""
    towers = load_towers(folder, run.config.device, run.config.precision)
    settings, test = run.config.evaluate, split_index(run, validation, "test")
    pairs = index_input(run, validation, "test", test, towers)
    text_ND, image_ND = embed_pairs(towers, pairs, settings.batch_size, run.config.workers)

    def ranked(chosen: Rows) -> RetrievalResult:
        related = _related(test.take(chosen))
        texts, images = text_ND[chosen], image_ND[chosen]
        return evaluate_retrieval(
            texts[related.caption_row], images[related.image_row], related, settings.block_rows
        )

    result = ranked(rows)
    whole = None if len(rows) == len(test) else ranked(np.arange(len(test))).mean_recall
    return Scored(result, run.data.version, whole)


def _related(index: PairIndex) -> RelevantPairs:
    return relate(index.caption_hash.tolist(), index.image_hash.tolist())


def _slice_columns(
    index: PairIndex, table: pa.Table | None, wanted: Collection[str]
) -> SliceColumns:
    """Return the wanted side-table columns that there are for an index's captions and images."""
    if table is None:
        return {}
    related, columns = _related(index), {}
    for name in sorted(set(wanted).intersection(table.column_names)):
        label_N: npt.NDArray[np.str_] = np.array(
            table[name].take(index.line - 1).to_pylist(), dtype=np.str_
        )
        columns[name] = SliceLabels(
            label_N[related.caption_row.numpy()], label_N[related.image_row.numpy()]
        )
    return columns
