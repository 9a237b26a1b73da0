"""Validate a data version before anything is trained on it.

One pass over each TSV writes its profile and quarantine (`model.pairs.profile`); repeats, leaks and
counts are found in the profiles (`tasks.validation.leaks`); Great Expectations validates all of
them, the side tables and the drift; Data Docs have every verdict. A suite that fails, or a metric
that cannot be computed, stops the run. Great Expectations takes about 8 s of one core for two
million lines, and 3 s for the pages of ten small tables.
"""

from collections.abc import Mapping
from pathlib import Path

from model.config.sections import DataConfig, ModelConfig
from model.errors import DataError
from model.pairs.mistakes import likely_mistake
from model.pairs.profile import ProfileSummary, existing_profile, profile_files, write_profile
from model.pairs.repeats import read_repeats
from model.pairs.splits import find_split_files, read_side_table
from model.pairs.tsv import check_file, count_lines
from tasks.pages.text import count_rows, counted
from tasks.runtime.environment import report_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_table
from tasks.runtime.progress import progress
from tasks.runtime.records import DataVersion, Reading, Run, SplitCounts, Validation
from tasks.runtime.stage import stage
from tasks.validation.accepted import tsv_files
from tasks.validation.drift import (
    DRIFT_FILE,
    Drift,
    Reference,
    champion_reference,
    keep_with_run,
    measure_drift,
    publish_drift,
    unmeasured,
)
from tasks.validation.leaks import (
    SplitWithProducts,
    compare_splits,
    comparison_files,
    first_repeats,
    kinds,
)
from tasks.validation.page import publish_data_page
from tasks.validation.remarks import remarks

MAX_REPEATS = 20


@stage("validate", Validation)
def validate(run: Run) -> Validation:
    """Profile every split, quarantine faulty lines, validate the profiles and write the Data Docs.

    Drift is measured against the data version of the champion; the counts that it needs stay with
    the MLflow run.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the
            Data Docs.
        ServiceError: the registry does not answer.
    """
    validation = validate_data_version(
        run.data,
        run.config.data,
        run.config.profile_processes,
        champion_reference(run.config.registered_model),
        run.config.model,
    )

    # Later versions are compared with these counts.
    keep_with_run(run, validation.profiles)
    return validation


def validate_data_version(
    data: DataVersion,
    limits: DataConfig,
    profile_processes: int | None = None,
    reference: Reference | None = None,
    model: ModelConfig | None = None,
) -> Validation:
    """Profile every split that has no profile yet, validate all and write the Data Docs.

    With a reference, the version's drift against it is measured and validated, too; with a model,
    how its text tower reads the captions is measured.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the
            Data Docs.
    """
    tsvs, folder = tsv_files(find_split_files(data.folder)), report_folder(data.version)
    for tsv in tsvs.values():
        check_file(tsv)
    splits = {
        name: SplitWithProducts(tsv, read_side_table(tsv, limits.require_side_table))
        for name, tsv in tsvs.items()
    }

    summaries = _profile_splits(tsvs, folder, limits, profile_processes)
    compare_splits(folder, splits)
    counts = [_counts(name, summary, folder) for name, summary in summaries.items()]
    _publish_counts(data, counts, folder)
    drift, warnings = _measure_drift(data, reference, limits)
    warnings += _logged(remarks(folder, splits, summaries, counts, limits))

    # Importing Great Expectations, and tokenisers with torch, takes seconds that a run with nothing
    # new to do must not spend.
    from tasks.validation import suite, tables

    checked = tables.version_tables(folder, splits, counts, drift, limits)
    verdict = suite.validate_tables(checked, folder / "docs")
    page = publish_data_page(data, tsvs, folder, counts, drift, verdict, warnings)
    if verdict.failures:
        raise DataError(
            f"{data.folder}: {verdict.failures[0]}{_where(folder, counts)}; "
            f"see {page}{_why(tsvs, counts, limits)}"
        )

    reading: list[Reading] = []
    if model is not None:
        from tasks.validation.reading import measure_reading

        reading, unread = measure_reading(model, tsvs, folder)
        warnings += _logged(unread)
    return Validation(
        profiles=folder,
        docs=verdict.docs,
        counts=counts,
        expectations=verdict.expectations,
        warnings=warnings + verdict.warnings,
        reading=reading,
    )


def _logged(warnings: list[str]) -> list[str]:
    for sentence in warnings:
        run_logger().warning("%s", sentence)
    return warnings


def _profile_splits(
    tsvs: Mapping[str, Path], folder: Path, limits: DataConfig, processes: int | None
) -> dict[str, ProfileSummary]:
    files = {name: profile_files(folder, name) for name in tsvs}
    summaries = {name: existing_profile(tsv, files[name], limits) for name, tsv in tsvs.items()}
    new = {name: tsv for name, tsv in tsvs.items() if summaries[name] is None}
    with progress("validate", sum(map(count_lines, new.values())), "lines") as bar:
        made = {
            name: write_profile(tsv, files[name], limits, "pair", bar.advance, processes)
            for name, tsv in new.items()
        }
    return {name: summaries[name] or made[name] for name in tsvs}


def _counts(name: str, summary: ProfileSummary, folder: Path) -> SplitCounts:
    files = comparison_files(folder, name)
    leaks, repeats = read_repeats(files.leaks), read_repeats(files.repeats)
    return SplitCounts(
        name=name,
        lines=summary.lines,
        accepted=summary.accepted,
        quarantined=summary.quarantined,
        faults=summary.faults,
        repeats=kinds(repeats),
        leaks=kinds(leaks),
        leaked=len(leaks["line"].unique()),
    )


def _publish_counts(data: DataVersion, counts: list[SplitCounts], folder: Path) -> None:
    rows = [
        {
            "split": count.name,
            "lines": count.lines,
            "accepted": count.accepted,
            "quarantined": count.quarantined,
            "shared with test": counted(count.leaks),
            "repeats": counted(count.repeats),
            "faults": counted(count.faults),
        }
        for count in counts
    ]
    publish_table(rows, key="validation", description=f"Data version {data.version}")
    for row in count_rows(counts, "split"):
        found = ", ".join(
            f"{what}: {row[what]}"
            for what in ("faults", "repeats", "shared with test")
            if row[what] != "none"
        )
        run_logger().info(
            "%s: %s lines, %s accepted%s",
            row["split"],
            row["lines"],
            row["accepted"],
            f", {found}" if found else "",
        )

    repeated = [row for count in counts for row in first_repeats(folder, count.name, MAX_REPEATS)]
    if repeated:
        publish_table(
            repeated,
            key="duplicates",
            description="The first repeats and leaks of each split; all of them: "
            f"{folder}/*.duplicates.tsv",
        )


def _measure_drift(
    data: DataVersion, reference: Reference | None, limits: DataConfig
) -> tuple[Drift | None, list[str]]:
    """Return the drift against the reference, or warnings on why there is none."""
    # What an earlier validation measured may be against another reference.
    (report_folder(data.version) / DRIFT_FILE).unlink(missing_ok=True)
    if reference is None or reference.version == data.version:
        return None, []

    report = measure_drift(data.version, reference)
    if report is not None:
        publish_drift(report, limits)
        return report, []
    if limits.max_drift is not None:
        raise DataError(f"{unmeasured(reference)}, or set data.max_drift to null")
    run_logger().warning("%s", unmeasured(reference))
    return None, [unmeasured(reference)]


def _where(folder: Path, counts: list[SplitCounts]) -> str:
    """Return where the faulty and the leaking lines are."""
    found, quarantined = "", max(counts, key=lambda count: count.quarantined)
    if quarantined.quarantined:
        found += (
            f"; faulty lines ({counted(quarantined.faults)}) are kept in "
            f"{profile_files(folder, quarantined.name).quarantine}"
        )

    leaked = max(counts, key=lambda count: count.leaked)
    if leaked.leaked:
        found += f"; leaking lines are listed in {comparison_files(folder, leaked.name).listed}"
    return found


def _why(tsvs: Mapping[str, Path], counts: list[SplitCounts], limits: DataConfig) -> str:
    """Return the likely mistake behind a split of so many faulty lines, and what to do."""
    for count in counts:
        if count.quarantined > limits.max_fault_share * count.lines:
            tsv = tsvs[count.name]
            mistake = likely_mistake(tsv, count.faults)
            if mistake is not None:
                return f"; likely cause in {tsv}: {mistake}"
    return ""
