"""From a TSV to the embeddings of its lines, for `export` and `predict_file`; imports torch.

Lines take the road of training and evaluation: profile, index, batches. Profile and token ids lie
on disk; the index takes 48 bytes a line.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc

from model.batches.loading import pair_input
from model.config.sections import DataConfig
from model.embeddings.columns import write_products
from model.embeddings.embed import Products, embed_products
from model.errors import DataError
from model.pairs.index import PairIndex, PairSource, index_pairs
from model.pairs.mistakes import likely_mistake
from model.pairs.profile import (
    ProfileFiles,
    existing_profile,
    profile_files,
    read_profile,
    write_profile,
)
from model.pairs.splits import find_split_files, read_side_table
from model.pairs.tsv import count_lines, detect_columns
from model.storage.files import atomic_write
from model.towers.folder import load_towers
from model.towers.towers import Towers
from tasks.runtime.environment import report_folder
from tasks.runtime.progress import progress
from tasks.runtime.records import Run, TrainedModel, Version
from tasks.validation.accepted import tsv_files

LISTED_FAULTS = 5


def accepted_lines(
    tsv: Path, files: ProfileFiles, limits: DataConfig, processes: int | None = None
) -> tuple[PairIndex, int]:
    """Return the index of a TSV's lines that can be embedded, and how many lines it has.

    The TSV is profiled unless ``files`` hold its profile by the same limits.

    Raises:
        DataError: it cannot be a TSV, or has no line that can be embedded.
    """
    columns = detect_columns(tsv)
    summary = existing_profile(tsv, files, limits, columns)
    if summary is None:
        with progress("profile", count_lines(tsv), "lines") as bar:
            summary = write_profile(tsv, files, limits, columns, bar.advance, processes)
    if not summary.accepted:
        mistake = likely_mistake(tsv, summary.faults) if columns == "pair" else None
        raise DataError(
            f"{tsv}: none of its {summary.lines:,} lines can be embedded ({faulty_lines(files)}); "
            + (f"likely cause: {mistake}" if mistake else "repair them or name another file")
        )

    return index_pairs([PairSource(tsv, files.table, columns)]), summary.lines


def faulty_lines(files: ProfileFiles) -> str:
    """Name the first faulty lines of a profiled TSV with their reasons; empty where none is."""
    profile = read_profile(files.table, ["line", "fault"])
    faulty = profile.filter(pc.is_valid(profile["fault"]))
    rows = faulty.slice(0, LISTED_FAULTS).to_pylist()
    listed = ", ".join(f"line {row['line']} {row['fault']}" for row in rows)
    return f"{listed}, …" if len(faulty) > len(rows) else listed


def embed_lines(
    what: str, towers: Towers, index: PairIndex, cache: Path, batch_size: int, workers: int
) -> Iterator[Products]:
    """Yield the embeddings of an index in batches, with a progress bar named ``what``.

    Raises:
        DataError: a line is not the one that was profiled, or cannot be decoded any more.
    """
    pairs = pair_input(towers.input_spec, index, cache)
    with progress(what, len(pairs), "lines") as bar:
        yield from embed_products(towers, pairs, batch_size, workers, bar.advance)


def export_files(
    run: Run, version: Version, model: TrainedModel, folder: Path
) -> Iterator[tuple[Path, int, int]]:
    """Write a Parquet for each of the config's export files; yield its path, lines and rows.

    A split is read by the profile that validation left, any other file by one of its own.

    Raises:
        DataError: a TSV is missing, or has no line that can be embedded.
        CheckpointError: the model is damaged.
    """
    config, reports = run.config, report_folder(run.data.version)
    towers = load_towers(model.folder, config.device, config.precision)
    splits = find_split_files(run.data.folder)
    names = {tsv: name for name, tsv in tsv_files(splits).items()}
    facts = {
        "model_version": f"{version.name}/{version.number}",
        "data_version": run.data.version,
    }

    for tsv in (splits.test.parent / name for name in config.export.files):
        files = (
            profile_files(reports, names[tsv])
            if tsv in names
            else profile_files(reports / "export", tsv.stem)
        )
        index, lines = accepted_lines(tsv, files, config.data, config.profile_processes)
        table = read_side_table(tsv, required=False, lines=lines)
        ids = None if table is None else table["id"].to_pylist()

        path = folder / f"{tsv.stem}.parquet"
        products = embed_lines(
            "export", towers, index, reports / "cache", config.export.batch_size, config.workers
        )
        with atomic_write(path) as file:
            write_products(file, products, index.columns, towers.embed_dim, facts, tsv.stem, ids)
        yield path, lines, len(index)
