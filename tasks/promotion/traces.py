"""What each version was trained on, kept beside its decision, and the test pairs that are among it.

A test pair that a champion was trained on is no question to it but a memory: against it every
challenger is held back for ever. Within one data version validation has found what leaks; where the
champion comes from another one, its traces (`model.pairs.seen`) say which test pairs it knows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from model.errors import DataError
from model.pairs.arrays import Rows
from model.pairs.repeats import Profiled, read_repeats
from model.pairs.seen import TRACES_SCHEMA, collect_traces, find_seen, is_readable
from model.pairs.splits import find_split_files, read_side_table
from model.storage.tables import read_table, write_table
from tasks.registry.reading import DATA_VERSION_TAG
from tasks.registry.tracking import attach, fetch_artifacts
from tasks.runtime.log import run_logger
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import PRETRAIN, leaks_path, profile_path, tsv_files
from tasks.validation.leaks import TEST

TRACES_FOLDER, TRACES_FILE = "trained-on", "trained-on.parquet"


class Seen(NamedTuple):
    """Which test pairs, bool [N], a model was trained on, how many by kind, and for whom nobody
    knows.
    """

    is_seen: npt.NDArray[np.bool_]
    by_kind: dict[str, int]
    unknown: tuple[str, ...]


def keep_traces(run: Run, validation: Validation) -> None:
    """Leave the traces of what a run trained on with its MLflow run.

    Raises:
        DataError: a profile is missing or damaged.
    """
    path = run.folder / TRACES_FILE
    write_table(collect_traces(_trained_splits(run, validation)), path)
    attach(run.mlflow_run_id, [path], TRACES_FOLDER)


def find_seen_pairs(
    run: Run, validation: Validation, lines: Rows, versions: list[ModelVersion]
) -> Seen:
    """Find the accepted lines of test that some of these versions were trained on.

    Raises:
        DataError: a profile is missing or damaged.
    """
    test = _profiled(run, validation, TEST)
    seen_by_kind: dict[str, npt.NDArray[np.bool_]] = {}
    unknown = []
    for version in versions:
        # Within its own data version validation has found every leak.
        if version.tags.get(DATA_VERSION_TAG) == run.data.version:
            continue
        traces = _read_traces(run, version)
        if traces is None:
            unknown.append(f"version {version.version}")
            continue
        for kind, is_seen in find_seen(test, lines, traces).items():
            seen_by_kind[kind] = seen_by_kind.get(kind, False) | is_seen

    is_seen = np.any([np.zeros(len(lines), np.bool_), *seen_by_kind.values()], axis=0)
    return Seen(
        is_seen,
        {kind: int(found.sum()) for kind, found in seen_by_kind.items()},
        tuple(unknown),
    )


def _trained_splits(run: Run, validation: Validation) -> Iterator[tuple[Profiled, Rows]]:
    """Yield the splits that a run trains or chooses an epoch on, with the lines that it drops."""
    for name in tsv_files(find_split_files(run.data.folder)):
        is_skipped = name.startswith(PRETRAIN) and not run.config.pretrain.epochs
        if name != TEST and not is_skipped:
            leaking = read_repeats(leaks_path(validation.profiles, name))["line"].to_numpy()
            yield _profiled(run, validation, name), leaking


def _profiled(run: Run, validation: Validation, name: str) -> Profiled:
    tsv = tsv_files(find_split_files(run.data.folder))[name]
    table = read_side_table(tsv, required=False)
    ids = None if table is None else table["id"]
    return Profiled(tsv, profile_path(validation.profiles, name), ids)


def _read_traces(run: Run, version: ModelVersion) -> pa.Table | None:
    """Return the traces of a version, None where there are none that can be read."""
    place = run.folder / TRACES_FOLDER / f"version-{version.version}"
    folder = fetch_artifacts(str(version.run_id), TRACES_FOLDER, place)
    if folder is None or not (folder / TRACES_FILE).exists():
        return None
    try:
        traces = read_table(folder / TRACES_FILE, TRACES_SCHEMA)
    except DataError as error:
        run_logger().warning("traces of version %s are of no use: %s", version.version, error)
        return None
    return traces if is_readable(traces) else None
