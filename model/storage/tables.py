"""Small Parquet tables beside the profiles of a data version: written whole, checked when read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError, typed
from model.storage.files import atomic_write


def write_table(table: pa.Table, path: Path) -> None:
    """Leave a table as Parquet, with checksums that find a flipped bit."""
    with atomic_write(path) as file:
        pq.write_table(table, file, write_page_checksum=True)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Return a table that `write_table` left.

    Raises:
        DataError: it is missing or damaged, or has other columns.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: missing or damaged; delete it and validate that data version again "
            f"(`{typed('validate --data data')}`)"
        ) from error

    if not table.schema.equals(schema):
        raise DataError(
            f"{path}: not what this version writes; delete it and validate that data version again"
        )
    return table
