"""One process that opens a split by its profile and reads at random; and what it reads.

    python -m benchmarks.support.opening <tsv> <profile> <reads>

The TSV is sparse: each line is followed by a hole, so that 10 GB of a file take 2 GB of disk.
"""

import json
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.measure import ROUNDS, private_bytes
from model.errors import FaultReason
from model.pairs.index import PairSource, index_pairs
from model.pairs.line_facts import caption_hash, content_hash
from model.pairs.profile import PROFILE_SCHEMA, ROWS_A_GROUP
from model.pairs.tsv import parse_line


def write_sparse(tsv: Path, profile: Path, lines: list[bytes], rows: int, size: int) -> None:
    """Write ``rows`` of the lines, over and over, spread over ``size`` bytes, and their profile."""
    stride = size // rows
    with tsv.open("wb") as file:
        for number, line in enumerate(islice(cycle(lines), rows)):
            file.seek(number * stride)
            file.write(line + b"\n")

    # What reading looks at is true; keys, hashes and thumbnails of images are drawn.
    rng, thumb_bytes = np.random.default_rng(0), PROFILE_SCHEMA.field("image_thumb").type.byte_width
    known = [_profiled(line) for line in lines]
    columns: dict[str, Any] = {
        name: [row[name] for row in islice(cycle(known), rows)] for name in known[0]
    }
    columns |= {"line": np.arange(1, rows + 1), "offset": np.arange(rows) * stride}
    columns |= {
        name: rng.integers(1 << 63, size=rows).astype(np.uint64)
        for name in ("caption_key", "image_phash")
    }
    columns["image_thumb"] = [rng.bytes(thumb_bytes) for _ in range(rows)]

    arrays = [
        pa.array(columns.get(field.name, [None] * rows), field.type) for field in PROFILE_SCHEMA
    ]
    table = pa.table(arrays, schema=PROFILE_SCHEMA)
    pq.write_table(
        table, profile, compression="zstd", write_page_checksum=True, row_group_size=ROWS_A_GROUP
    )


def _profiled(line: bytes) -> dict[str, Any]:
    pair = parse_line(line)
    assert not isinstance(pair, FaultReason), "benchmarks read good lines"
    hashes = {
        "caption_hash": caption_hash(pair.caption or ""),
        "image_hash": content_hash(pair.image or b""),
    }
    return hashes | {"length": len(line), "image_format": "JPEG", "mode": "RGB"}


def main() -> None:
    """Open the split several times, read the last; print seconds and bytes of private memory."""
    source = PairSource(Path(sys.argv[1]), Path(sys.argv[2]))
    imported, seconds = private_bytes(), []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        index = index_pairs([source])
        seconds.append(time.perf_counter() - start)
    opened = private_bytes()

    rows = np.random.default_rng(0).integers(len(index), size=int(sys.argv[3]))
    start = time.perf_counter()
    for row in rows:
        index.read(int(row))
    rate = len(rows) / (time.perf_counter() - start)

    found = {
        "open_s": statistics.median(seconds[1:]),
        "rate": rate,
        "imported": imported,
        "opened": opened,
    }
    print(json.dumps(found | {"read": private_bytes()}))


if __name__ == "__main__":
    main()
