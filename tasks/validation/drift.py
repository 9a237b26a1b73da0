"""How far a data version is from the one that the champion was trained on.

Counts of both versions are compared (`model.pairs.drift`); pretraining files count together,
because their names change from drop to drop. The counts of a version lie beside its profiles and as
artifacts of the MLflow runs that were made on it, so they outlive the pairs and this machine.
"""

from pathlib import Path

import pyarrow as pa
from prefect.events import emit_event

from model.config.sections import DataConfig
from model.errors import typed
from model.pairs.drift import Mover, added, drift, read_counts
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
MAX_ROWS = 50


class Reference(Record):
    """A data version to compare with: its name in a sentence, the MLflow run with its counts."""

    version: str
    name: str
    mlflow_run_id: str


class DriftedColumn(Record):
    """The drift of a column of a split: ``drift`` is ``psi`` as far as it is above ``noise``."""

    split: str
    column: str
    drift: float
    psi: float
    noise: float
    moved: list[Mover]

    def values(self) -> str:
        """Return the values that moved most, with hidden characters spelled out."""
        return visible(", ".join(map(str, self.moved)))

    def sentence(self) -> str:
        """Return the figure and the values that moved most, with hidden characters spelled out."""
        return f"{self.split} {visible(self.column)}: {self.drift:.3f} ({self.values()})"


class Drift(Record):
    """The drift of all columns against a reference, farthest first within a split."""

    reference: Reference
    version: str
    columns: list[DriftedColumn]

    def over(self, limit: float) -> list[DriftedColumn]:
        """Return the columns that drifted farther than a limit, farthest first."""
        farthest_first = sorted(self.columns, key=lambda each: -each.drift)
        return [each for each in farthest_first if each.drift > limit]


def champion_reference(registered_model: str) -> Reference | None:
    """Return the data version that the champion was trained on, None without one or its tag.

    Raises:
        ServiceError: the registry does not answer.
    """
    origin = champion_origin(registered_model)
    if origin is None or not VERSION.match(origin[0]):
        return None

    version, champion = origin
    return Reference(
        version=version,
        name=f"champion version {champion.number}",
        mlflow_run_id=champion.mlflow_run_id,
    )


def measure_drift(version: str, reference: Reference) -> Drift | None:
    """Return the drift of a data version, None where the counts of the reference cannot be had.

    Raises:
        DataError: counts are damaged.
    """
    old = report_folder(reference.version)
    if not _count_files(old) and reference.mlflow_run_id:
        old = fetch_artifacts(reference.mlflow_run_id, ARTIFACTS, old / "fetched") or old
    before, after = _counts(old), _counts(report_folder(version))
    if not before:
        return None

    columns = [
        DriftedColumn(
            split=split,
            column=each.column,
            drift=each.excess,
            psi=each.psi,
            noise=each.noise,
            moved=list(each.movers),
        )
        for split in after
        if split in before
        for each in drift(before[split], after[split])
    ]
    report = Drift(reference=reference, version=version, columns=columns)
    report.write(report_folder(version) / DRIFT_FILE)
    return report


def unmeasured(reference: Reference) -> str:
    """Return a sentence on counts of the reference that are not here, and how to get them."""
    return (
        f"drift was not measured: the counts of data version {reference.version} "
        f"({reference.name}) are neither on this machine nor in its MLflow run; check that version "
        "out (`git checkout COMMIT data.dvc`) and make them with "
        f"`{typed('validate --data data')}`"
    )


def publish_drift(report: Drift, limits: DataConfig) -> None:
    """Publish the drift as a table in Prefect UI, and log what is over the limit."""
    against = f"data version {report.reference.version[:8]} ({report.reference.name})"
    rows = [
        {
            "split": each.split,
            "column": visible(each.column),
            "drift": f"{each.drift:.3f}",
            "index": f"{each.psi:.3f}",
            "chance": f"{each.noise:.3f}",
            "moved most": each.values(),
        }
        for each in sorted(report.columns, key=lambda each: (-each.drift, -each.psi))[:MAX_ROWS]
    ]
    publish_table(
        rows, key="drift", description=f"Drift of data version {report.version} against {against}"
    )

    over, limit = report.over(limits.drift_warn), limits.drift_warn
    if not over:
        run_logger().info("no column drifted by more than %g against %s", limit, against)
    for each in over:
        run_logger().warning("drift against %s: %s", against, each.sentence())


def announce_drift(report: Drift, limits: DataConfig) -> bool:
    """Emit the event that a retraining waits for if a column is over the limit; return whether."""
    over = report.over(limits.drift_warn)
    if over:
        emit_event(
            DRIFTED,
            resource={"prefect.resource.id": RESOURCE},
            payload={
                "version": report.version,
                "against": report.reference.name,
                "columns": [each.sentence() for each in over],
            },
        )
    return bool(over)


def keep_with_run(run: Run, folder: Path) -> None:
    """Attach the counts of a data version, and its drift, to the MLflow run."""
    files = [*sorted(folder.glob(f"*{COUNTS_SUFFIX}")), folder / DRIFT_FILE]
    log_results(run.mlflow_run_id, {}, [file for file in files if file.exists()], ARTIFACTS)


def _counts(folder: Path) -> dict[str, pa.Table]:
    """Return the counts of a data version by split, the pretraining files together."""
    parts: dict[str, list[pa.Table]] = {}
    for path in _count_files(folder):
        name = path.name.removesuffix(COUNTS_SUFFIX)
        split = "pretrain" if name.startswith(PRETRAIN) else name
        parts.setdefault(split, []).append(read_counts(path))
    return {split: added(tables) for split, tables in parts.items()}


def _count_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{COUNTS_SUFFIX}"))
