"""Judge a data version before anything is trained on it.

One pass over each TSV writes its profile and quarantine (`model.pairs`); Great Expectations judges the profiles; Data
Docs show every verdict. A suite that fails, or a metric that cannot be computed, stops the run.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
from prefect.artifacts import create_link_artifact, create_table_artifact

from model.config import DataConfig
from model.errors import DataError
from model.pairs import check_file, count_lines
from model.profiles import (
    ProfileSummary,
    existing_profile,
    profile_files,
    read_profile,
    write_profile,
)
from model.splits import Splits, find_splits, read_side_table
from tasks.environment import state_folder
from tasks.progress import progress
from tasks.records import DataVersion, Run, SplitCounts, Validation
from tasks.stage import run_logger, stage

JUDGED_COLUMNS = [
    "line", "caption_chars", "caption_words", "caption_hash", "image_hash", "image_format", "width", "height",
    "image_bytes", "fault",
]  # fmt: skip


# Hashes of 64 bits would lose their last digits as the floats that pandas makes of integers with nulls.
WHOLE_NUMBERS = {pa.uint64(): pd.UInt64Dtype()}


@stage("validate", Validation)
def validate(run: Run) -> Validation:
    """Profile every split, quarantine faulty lines, judge the profiles and write the Data Docs.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the Data Docs.
    """
    return judge_data(run.data, run.config.data, run.config.profile_processes)


def judge_data(data: DataVersion, limits: DataConfig, profile_processes: int | None = None) -> Validation:
    """Profile every split of a data version, unless that was done, judge the profiles and write the Data Docs.

    Raises:
        DataError: a file is missing or no TSV of pairs, or an expectation is not met; names the Data Docs.
    """
    splits = find_splits(data.folder)
    for tsv in tsv_files(splits).values():
        check_file(tsv)
    folder = data_report_folder(data)
    summaries = _profile_splits(splits, folder, limits, profile_processes)
    frames = _judged_frames(folder, summaries)
    counts = [_counts(name, summary, frames[name]) for name, summary in summaries.items()]
    _publish_counts(data, counts)
    _check_side_tables(splits, summaries, limits)
    # Importing Great Expectations takes seconds that a run with nothing new to do should not spend.
    from tasks.suite import judge_profiles

    verdict = judge_profiles(frames, limits, folder / "docs")
    create_link_artifact(
        verdict.docs.as_uri(), link_text="Data Docs", key="data-docs", description="Great Expectations"
    )
    if verdict.failures:
        raise DataError(f"{data.folder}: {verdict.failures[0]}{_where_quarantined(folder, counts)}; see {verdict.docs}")
    return Validation(profiles=folder, docs=verdict.docs, counts=counts, expectations=verdict.expectations)


def data_report_folder(data: DataVersion) -> Path:
    """Return where profiles, quarantine and Data Docs of a data version lie."""
    return state_folder() / "data" / data.version


def tsv_files(splits: Splits) -> dict[str, Path]:
    """Return the TSVs of the splits by the name under which they are profiled."""
    named = {f"pretrain-{path.stem}": path for path in splits.pretrain}
    named["train"] = splits.train
    if splits.valid is not None:
        named["valid"] = splits.valid
    return named | {"test": splits.test}


def profile_path(folder: Path, name: str) -> Path:
    """Return the profile of a split."""
    return profile_files(folder, name).table


def quarantine_path(folder: Path, name: str) -> Path:
    """Return the quarantine of a split."""
    return profile_files(folder, name).quarantine


def _profile_splits(
    splits: Splits, folder: Path, limits: DataConfig, processes: int | None
) -> dict[str, ProfileSummary]:
    files = tsv_files(splits)
    summaries = {}
    with progress("validate", sum(count_lines(path) for path in files.values()), "lines") as shown:
        for name, tsv in files.items():
            left = profile_files(folder, name)
            known = existing_profile(tsv, left, limits)
            if known is not None:
                shown.advance(known.lines)
            summaries[name] = known or write_profile(tsv, left, limits, "pair", shown.advance, processes)
    return summaries


def _check_side_tables(splits: Splits, summaries: Mapping[str, ProfileSummary], limits: DataConfig) -> None:
    for name, tsv in tsv_files(splits).items():
        read_side_table(tsv, limits.require_side_table, summaries[name].lines)


def _counts(name: str, summary: ProfileSummary, frame: pd.DataFrame) -> SplitCounts:
    return SplitCounts(
        name=name,
        lines=summary.lines,
        accepted=summary.accepted,
        quarantined=summary.quarantined,
        faults=summary.faults,
        leaked=int((frame["caption_in_test"] | frame["image_in_test"]).sum()) if name != "test" else 0,
    )


def _publish_counts(data: DataVersion, counts: list[SplitCounts]) -> None:
    rows = [
        {
            "split": count.name,
            "lines": count.lines,
            "accepted": count.accepted,
            "quarantined": count.quarantined,
            "also in test": count.leaked,
            "faults": ", ".join(f"{reason} {n}" for reason, n in sorted(count.faults.items())) or "none",
        }
        for count in counts
    ]
    create_table_artifact(rows, key="validation", description=f"Data version {data.version}")
    for row in rows:
        run_logger().info(
            "%(split)s: %(lines)d lines, %(accepted)d accepted, %(also in test)d also in test, faults: %(faults)s", row
        )


def _where_quarantined(folder: Path, counts: list[SplitCounts]) -> str:
    worst = max(counts, key=lambda count: count.quarantined)
    if not worst.quarantined:
        return ""
    return f"; faulty lines are kept in {quarantine_path(folder, worst.name)}"


def _judged_frames(folder: Path, summaries: Mapping[str, ProfileSummary]) -> dict[str, pd.DataFrame]:
    """Return one frame a split: the profile's columns, and what only a comparison of lines and splits can tell."""
    tables = {name: read_profile(profile_path(folder, name), JUDGED_COLUMNS) for name in summaries}
    frames = {name: table.to_pandas(types_mapper=WHOLE_NUMBERS.get) for name, table in tables.items()}
    test = frames["test"]
    test_captions, test_images = set(test["caption_hash"].dropna()), set(test["image_hash"].dropna())
    for name, frame in frames.items():
        faulty = frame["fault"].notna()
        frame["is_duplicate"] = frame.duplicated(["caption_hash", "image_hash"]) & ~faulty
        if name != "test":
            frame["caption_in_test"] = frame["caption_hash"].isin(test_captions) & ~faulty
            frame["image_in_test"] = frame["image_hash"].isin(test_images) & ~faulty
    return frames
