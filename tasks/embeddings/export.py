"""Embeddings of products, as Parquet: lines of the TSV = rows + faulty lines.

Columns: ``id`` (the side table's, else file and line), ``line`` (1-based), ``model_version``,
``data_version``, ``text_embedding`` and ``image_embedding`` (fixed-size lists of float32,
L2-normalised). A TSV of captions or of images alone has only its own embedding column.
"""

from tasks.registry.files import registered_model
from tasks.registry.register import record_export
from tasks.runtime.environment import state_folder
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_table
from tasks.runtime.records import Export, Run, Version
from tasks.runtime.stage import service_task


@service_task("export")
def export(run: Run, version: Version) -> Export:
    """Write the embeddings of every product in the config's export files, by a registered version.

    Raises:
        DataError: a TSV is missing, or has no line that can be embedded.
        CheckpointError: the version's weights are damaged.
    """
    from tasks.embeddings.products import export_files

    folder = state_folder() / "embeddings" / f"{version.name}-v{version.number}" / run.data.version
    paths, lines, rows = [], 0, 0
    for path, read, embedded in export_files(run, version, registered_model(version), folder):
        paths.append(path)
        lines, rows = lines + read, rows + embedded
        run_logger().info(
            "%s.tsv: %d lines, %d embedded, %d faulty → %s",
            *(path.stem, read, embedded, read - embedded, path),
        )

    faulty = lines - rows
    record_export(version, folder, rows)
    publish_table(
        [{"version": version.number, "lines": lines, "embedded": rows, "faulty": faulty}],
        key="export",
        description=str(folder),
    )
    return Export(folder=folder, files_written=paths, lines=lines, rows=rows, faulty=faulty)
