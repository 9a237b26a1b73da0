"""How far a data version is from the one that the champion was trained on.

Counts of both versions are compared (`model.pairs.drift`); pretraining files count together,
because their names change from drop to drop. The counts of a version lie beside its profiles and as
artifacts of the MLflow runs that were made on it, so they outlive the pairs and this machine.
"""

from pathlib import Path

import pyarrow as pa
from prefect.events import emit_event

from model.config.sections import DataConfig
from model.pairs.drift import ColumnDrift, added, drift, read_counts
from model.storage.files import atomic_write
from tasks.data.card import VERSION
from tasks.pages.text import visible
from tasks.registry.tracking import fetch_artifacts, log_results
from tasks.registry.versions import champion_origin
from tasks.runtime.environment import report_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_table
from tasks.runtime.records import Record, Run
from tasks.validation.accepted import PRETRAIN
from tasks.validation.leaks import COUNTS_SUFFIX

DRIFT_FILE = "drift.json"
DRIFTED, RESOURCE = "data.version.drifted", "commerce-clip.data"
ARTIFACTS = "data"
SHOWN = 50


class Reference(Record):
    """A data version to compare with, what it is in a sentence, and the MLflow run that keeps its counts."""

    version: str
    name: str
    mlflow_run_id: str


class Moved(Record):
    """A value with its shares before and after, 0 to 1."""

    value: str
    before: float
    after: float


class DriftedColumn(Record):
    """The drift of a column of a split: ``drift`` is ``psi`` as far as it is above ``noise``."""

    split: str
    column: str
    drift: float
    psi: float
    noise: float
    moved: list[Moved]

    def sentence(self) -> str:
        """Return the figures and the values that moved most, fit to be shown."""
        moved = ", ".join(
            f"{visible(each.value)} {each.before:.1%} → {each.after:.1%}" for each in self.moved
        )
        return f"{self.split} {visible(self.column)}: {self.drift:.3f} ({moved})"


class Drift(Record):
    """The drift of all columns against a reference, farthest first within a split."""

    reference: Reference
    version: str
    columns: list[DriftedColumn]

    def over(self, limit: float) -> list[DriftedColumn]:
        """Return the columns that drifted farther than a limit, farthest first."""
        return sorted(
            (each for each in self.columns if each.drift > limit), key=lambda each: -each.drift
        )


def champion_reference(registered_model: str) -> Reference | None:
    """Return the data version that a model's champion was trained on, None without a champion or
    its tag.

    Raises:
        ServiceError: the registry does not answer.
    """
    origin = champion_origin(registered_model)
    if origin is None or not VERSION.match(origin[0]):
        return None
    version, champion = origin
    name = f"champion version {champion.number}"
    return Reference(version=version, name=name, mlflow_run_id=champion.mlflow_run_id)


def measure_drift(version: str, reference: Reference) -> Drift | None:
    """Return the drift of a data version, None where the counts of the reference cannot be had.

    Raises:
        DataError: counts are damaged.
    """
    before, after = _reference_counts(reference), _counts(report_folder(version))
    if not before:
        return None
    columns = [
        _record(split, column)
        for split in after
        if split in before
        for column in drift(before[split], after[split])
    ]
    report = Drift(reference=reference, version=version, columns=columns)
    with atomic_write(report_folder(version) / DRIFT_FILE) as file:
        file.write(report.model_dump_json(indent=2).encode())
    return report


def unmeasured(reference: Reference) -> str:
    """Say that the counts of the reference are not here, and how to get them."""
    return (
        f"drift was not measured: the counts of data version {reference.version} ({reference.name}) are neither on "
        "this machine nor in its MLflow run; check that version out (`git checkout COMMIT data.dvc`) and make them "
        "with `python -m flows validate --data data`"
    )


def publish_drift(report: Drift, limits: DataConfig) -> None:
    """Show the drift as a table on Prefect's page and what is over the limit in the log."""
    against = f"data version {report.reference.version[:8]} ({report.reference.name})"
    rows = [
        {
            "split": each.split,
            "column": visible(each.column),
            "drift": f"{each.drift:.3f}",
            "index": f"{each.psi:.3f}",
            "chance": f"{each.noise:.3f}",
            "moved most": ", ".join(
                f"{visible(m.value)} {m.before:.1%} → {m.after:.1%}" for m in each.moved
            ),
        }
        for each in sorted(report.columns, key=lambda each: (-each.drift, -each.psi))[:SHOWN]
    ]
    publish_table(
        rows, key="drift", description=f"Drift of data version {report.version} against {against}"
    )
    over = report.over(limits.drift_warn)
    if not over:
        run_logger().info(
            "no column drifted by more than %g against %s", limits.drift_warn, against
        )
    for each in over:
        run_logger().warning("drift against %s: %s", against, each.sentence())


def announce_drift(report: Drift, limits: DataConfig) -> bool:
    """Emit the Prefect event that a retraining waits for where a column drifted over the limit; return whether."""
    over = report.over(limits.drift_warn)
    if over:
        payload = {
            "version": report.version,
            "against": report.reference.name,
            "columns": [c.sentence() for c in over],
        }
        emit_event(DRIFTED, resource={"prefect.resource.id": RESOURCE}, payload=payload)
    return bool(over)


def keep_with_run(run: Run, folder: Path) -> None:
    """Attach the counts of a data version, and its drift, to the MLflow run."""
    files = [*sorted(folder.glob(f"*{COUNTS_SUFFIX}")), folder / DRIFT_FILE]
    log_results(run.mlflow_run_id, {}, [file for file in files if file.exists()], ARTIFACTS)


def _record(split: str, column: ColumnDrift) -> DriftedColumn:
    moved = [
        Moved(value=each.value, before=each.before, after=each.after) for each in column.movers
    ]
    return DriftedColumn(
        split=split,
        column=column.column,
        drift=column.excess,
        psi=column.psi,
        noise=column.noise,
        moved=moved,
    )


def _reference_counts(reference: Reference) -> dict[str, pa.Table]:
    folder = report_folder(reference.version)
    if not _count_files(folder) and reference.mlflow_run_id:
        fetched = fetch_artifacts(reference.mlflow_run_id, ARTIFACTS, folder / "fetched")
        folder = fetched or folder
    return _counts(folder)


def _counts(folder: Path) -> dict[str, pa.Table]:
    """Return the counts of a data version by split, the pretraining files together."""
    parts: dict[str, list[pa.Table]] = {}
    for path in _count_files(folder):
        name = path.name.removesuffix(COUNTS_SUFFIX)
        parts.setdefault("pretrain" if name.startswith(PRETRAIN) else name, []).append(
            read_counts(path)
        )
    return {split: added(tables) for split, tables in parts.items()}


def _count_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{COUNTS_SUFFIX}"))
