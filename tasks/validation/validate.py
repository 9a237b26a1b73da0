"""Judge a data version before anything is trained on it.

One pass over each TSV writes its profile and quarantine (`model.pairs.profile`); repeats, leaks and
counts are found in the profiles (`tasks.validation.leaks`); Great Expectations judges all of them,
the side tables and the drift; Data Docs show every verdict. A suite that fails, or a metric that
cannot be computed, stops the run. Great Expectations takes about 8 s of one core for two million
lines, and 3 s for the pages of ten small tables.
"""

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.profile import (
    ProfileSummary,
    existing_profile,
    profile_files,
    read_profile,
    write_profile,
)
from model.pairs.repeats import LEAK_KINDS, read_repeats
from model.pairs.splits import find_split_files, read_side_table
from model.pairs.tsv import check_file, count_lines
from tasks.pages.text import counted
from tasks.runtime.environment import report_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import show_link, show_table
from tasks.runtime.progress import progress
from tasks.runtime.records import DataVersion, Run, SplitCounts, Validation
from tasks.runtime.stage import stage
from tasks.validation.accepted import profile_path, tsv_files
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
from tasks.validation.leaks import Split, compare_splits, comparison_files, first_repeats, kinds

if TYPE_CHECKING:
    from tasks.validation.suite import Judged

JUDGED_COLUMNS = ["caption_chars", "caption_words", "caption_script", "width", "height", "fault"]
SHOWN_REPEATS = 20


@stage("validate", Validation)
def validate(run: Run) -> Validation:
    """Profile every split, quarantine faulty lines, judge the profiles and write the Data Docs.

    Drift is measured against the data version of the champion; the counts that it needs stay with
    the MLflow run.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the
        Data Docs.
        ServiceError: the registry does not answer.
    """
    reference = champion_reference(run.config.registered_model)
    validation = judge_data(run.data, run.config.data, run.config.profile_processes, reference)
    keep_with_run(run, validation.profiles)
    return validation


def judge_data(
    data: DataVersion,
    limits: DataConfig,
    profile_processes: int | None = None,
    reference: Reference | None = None,
) -> Validation:
    """Profile every split of a data version, unless that was done, judge the profiles and write the
    Data Docs.

    With a reference, the version's drift against it is measured and judged, too.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the
        Data Docs.
    """
    tsvs = tsv_files(find_split_files(data.folder))
    for tsv in tsvs.values():
        check_file(tsv)
    folder = report_folder(data.version)
    splits = {
        name: Split(tsv, read_side_table(tsv, limits.require_side_table))
        for name, tsv in tsvs.items()
    }
    summaries = _profile_splits(tsvs, folder, limits, profile_processes)
    compare_splits(folder, splits)
    counts = [_counts(name, summary, folder) for name, summary in summaries.items()]
    _publish_counts(data, counts, folder)
    drift, warnings = _drift(data, reference, limits)
    # Importing Great Expectations takes seconds that a run with nothing new to do should not spend.
    from tasks.validation.suite import judge_tables

    verdict = judge_tables(_judged(folder, splits, counts, drift, limits), folder / "docs")
    show_link(
        verdict.docs.as_uri(), text="Data Docs", key="data-docs", description="Great Expectations"
    )
    if verdict.failures:
        raise DataError(
            f"{data.folder}: {verdict.failures[0]}{_where(folder, counts)}; see {verdict.docs}"
        )
    return Validation(
        profiles=folder,
        docs=verdict.docs,
        counts=counts,
        expectations=verdict.expectations,
        warnings=warnings + verdict.warnings,
    )


def _profile_splits(
    tsvs: Mapping[str, Path], folder: Path, limits: DataConfig, processes: int | None
) -> dict[str, ProfileSummary]:
    files = {name: profile_files(folder, name) for name in tsvs}
    summaries = {name: existing_profile(tsv, files[name], limits) for name, tsv in tsvs.items()}
    new = {name: tsv for name, tsv in tsvs.items() if summaries[name] is None}
    with progress("validate", sum(map(count_lines, new.values())), "lines") as shown:
        made = {
            name: write_profile(tsv, files[name], limits, "pair", shown.advance, processes)
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
            "also in test": counted(count.leaks),
            "repeats": counted(count.repeats),
            "faults": counted(count.faults),
        }
        for count in counts
    ]
    show_table(rows, key="validation", description=f"Data version {data.version}")
    for row in rows:
        run_logger().info(
            "%(split)s: %(lines)d lines, %(accepted)d accepted, also in test: %(also in test)s, repeats: %(repeats)s, "
            "faults: %(faults)s",
            row,
        )
    repeated = [row for count in counts for row in first_repeats(folder, count.name, SHOWN_REPEATS)]
    if repeated:
        description = (
            f"The first repeats and leaks of each split; all of them: {folder}/*.duplicates.tsv"
        )
        show_table(repeated, key="duplicates", description=description)


def _drift(
    data: DataVersion, reference: Reference | None, limits: DataConfig
) -> tuple[Drift | None, list[str]]:
    """Return the drift against the reference, or warnings that say why there is none."""
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
    """Say where the faulty and the leaking lines stand."""
    said, quarantined = "", max(counts, key=lambda count: count.quarantined)
    if quarantined.quarantined:
        said += f"; faulty lines are kept in {profile_files(folder, quarantined.name).quarantine}"
    leaked = max(counts, key=lambda count: count.leaked)
    if leaked.leaked:
        said += f"; leaking lines are listed in {comparison_files(folder, leaked.name).listed}"
    return said


def _judged(
    folder: Path,
    splits: Mapping[str, Split],
    counts: list[SplitCounts],
    drift: Drift | None,
    limits: DataConfig,
) -> "Iterable[Judged]":
    """Yield every table with what it must satisfy; splits first, because their sentences say most."""
    from tasks.validation.expectations import (
        drift_expectations,
        side_table_expectations,
        split_expectations,
    )
    from tasks.validation.suite import Judged

    for name in splits:
        yield Judged(name, split_frame(folder, name), list(split_expectations(name, limits)))
    for count in counts:
        products = splits[count.name].products
        if products is not None:
            frame = side_table_frame(products, limits.side_table_columns)
            yield Judged(
                f"{count.name}.products", frame, list(side_table_expectations(count.lines, limits))
            )
    if drift is not None:
        yield Judged(
            "drift", drift_frame(drift, limits.drift_warn), list(drift_expectations(limits))
        )


def split_frame(folder: Path, name: str) -> pd.DataFrame:
    """Return a row a line: facts of the profile, its verdict, whether it repeats a pair, what it shares with test."""
    files = comparison_files(folder, name)
    frame: pd.DataFrame = read_profile(profile_path(folder, name), JUDGED_COLUMNS).to_pandas()
    fault = frame.pop("fault")
    frame["verdict"] = fault.fillna("accepted").astype("category")
    frame["is_accepted"] = fault.isna().astype(np.int64)
    frame["is_duplicate"] = _flags(read_repeats(files.repeats), "pair", len(frame))
    leaks = read_repeats(files.leaks)
    for kind in LEAK_KINDS:
        frame[f"{kind}_in_test"] = _flags(leaks, kind, len(frame))
    return frame


def _flags(table: pa.Table, kind: str, lines: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    flags = np.zeros(lines, dtype=np.bool_)
    flags[table.filter(pc.equal(table["kind"], kind))["line"].to_numpy() - 1] = True
    return flags


def side_table_frame(products: pa.Table, columns: Iterable[str]) -> pd.DataFrame:
    """Return the columns that must have values, 1 where a row has one and null where it is empty: no text of it."""
    wanted = [name for name in ("id", *columns) if name in products.column_names]
    filled = {name: pc.not_equal(pc.utf8_trim_whitespace(products[name]), "") for name in wanted}
    frame = pd.DataFrame(
        {name: values.to_pandas().map({True: 1.0}) for name, values in filled.items()}
    )
    return frame if wanted else pd.DataFrame(index=range(len(products)))


def drift_frame(drift: Drift, warn: float) -> pd.DataFrame:
    """Return a row a column: how far it drifted and, where that is over the limit, which it is, as safe HTML."""
    from tasks.validation.expectations import NO_DRIFT

    over = {(each.split, each.column) for each in drift.over(warn)}
    said = [
        html.escape(each.sentence()) if (each.split, each.column) in over else NO_DRIFT
        for each in drift.columns
    ]
    return pd.DataFrame({"drift": [each.drift for each in drift.columns], "over_warn": said})
