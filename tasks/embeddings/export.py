"""Embeddings of products, as Parquet: lines of the TSV = rows + faulty lines.

LineColumns: ``id`` (the side table's, else file and line), ``line`` (1-based), ``model_version``,
``data_version``, ``text_embedding`` and ``image_embedding`` (fixed-size lists of float32,
L2-normalised). A TSV of captions or of images alone has only its own embedding column: Parquet
readers stumble over fixed-size lists that are null.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from model.embeddings.columns import fixed_lists
from model.errors import DataError
from model.pairs.splits import find_split_files, read_side_table
from model.pairs.tsv import LineColumns, check_file, count_lines, detect_columns
from model.storage.files import atomic_write
from tasks.registry.files import registered_model
from tasks.registry.register import record_export
from tasks.runtime.environment import state_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import show_table
from tasks.runtime.progress import progress
from tasks.runtime.records import Export, Run, Version
from tasks.runtime.stage import service_task

if TYPE_CHECKING:
    from model.embeddings.embed import Products
    from model.towers.towers import Towers


@service_task("export")
def export(run: Run, version: Version) -> Export:
    """Write the embeddings of every product in the config's export files, by a registered version.

    Raises:
        DataError: a TSV is missing, or has no line that can be embedded.
        CheckpointError: the version's weights are damaged.
    """
    from model.towers.folder import load_towers

    towers = load_towers(registered_model(version).folder, run.config.device, run.config.precision)
    beside = find_split_files(run.data.folder).test.parent
    folder = state_folder() / "embeddings" / f"{version.name}-v{version.number}" / run.data.version
    written, totals = [], {"lines": 0, "rows": 0}
    for name in run.config.export.files:
        tsv = beside / name
        check_file(tsv)
        path = folder / f"{tsv.stem}.parquet"
        lines, rows = _export_file(run, version, towers, tsv, path)
        written.append(path)
        totals = {"lines": totals["lines"] + lines, "rows": totals["rows"] + rows}
        run_logger().info(
            "%s: %d lines, %d embedded, %d faulty → %s", tsv.name, lines, rows, lines - rows, path
        )
    result = Export(
        folder=folder, files_written=written, faulty=totals["lines"] - totals["rows"], **totals
    )
    record_export(version, folder, result.rows)
    row = {
        "version": version.number,
        "lines": result.lines,
        "embedded": result.rows,
        "faulty": result.faulty,
    }
    show_table([row], key="export", description=str(folder))
    return result


def _export_file(
    run: Run, version: Version, towers: "Towers", tsv: Path, path: Path
) -> tuple[int, int]:
    """Embed one TSV batch by batch and return its (lines, rows)."""
    from model.embeddings.embed import embed_products

    lines = count_lines(tsv)
    table = read_side_table(tsv, required=False, lines=lines)
    ids = None if table is None else table["id"].to_pylist()
    config, columns, rows = run.config, detect_columns(tsv), 0
    schema = _schema(columns, towers.embed_dim)
    with progress("export", lines, "lines") as shown, atomic_write(path) as file:
        with pq.ParquetWriter(file, schema) as writer:
            products = embed_products(
                towers,
                tsv,
                columns,
                config.data,
                config.export.batch_size,
                config.workers,
                shown.advance,
            )
            for batch in products:
                writer.write_table(_table(batch, tsv, ids, version, run.data.version, schema))
                rows += len(batch.lines)
        if not rows:
            raise DataError(
                f"{tsv}: none of its {lines:,} lines can be embedded; validate the data to see why"
            )
    return lines, rows


def _schema(columns: LineColumns, width: int) -> pa.Schema:
    kinds = {"pair": ("text", "image"), "text": ("text",), "image": ("image",)}[columns]
    return pa.schema(
        [
            ("id", pa.string()),
            ("line", pa.int64()),
            ("model_version", pa.string()),
            ("data_version", pa.string()),
            *((f"{kind}_embedding", pa.list_(pa.float32(), width)) for kind in kinds),
        ]
    )


def _table(
    batch: "Products",
    tsv: Path,
    ids: list[str] | None,
    version: Version,
    data_version: str,
    schema: pa.Schema,
) -> pa.Table:
    names = [ids[line - 1] if ids else f"{tsv.stem}-{line}" for line in batch.lines]
    size = len(batch.lines)
    columns = {
        "id": names,
        "line": batch.lines,
        "model_version": [f"{version.name}/{version.number}"] * size,
        "data_version": [data_version] * size,
        "text_embedding": fixed_lists(batch.texts),
        "image_embedding": fixed_lists(batch.images),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)
