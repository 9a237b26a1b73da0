"""One process that profiles or decodes a TSV, without torch, and prints what it measured.

    python -m benchmarks.support.profiling profile <tsv> <folder> <processes>
    python -m benchmarks.support.profiling decode <tsv>

The first prints seconds (0 processes: the default), the second images a second.
"""

import sys
import time
from itertools import islice
from pathlib import Path

import simplejpeg

from model.config.sections import DataConfig
from model.errors import FaultReason
from model.pairs.profile import profile_files, write_profile
from model.pairs.tsv import parse_line, read_lines

DECODED = 500
DECODE_S = 3.0
MAX_LINE_BYTES = 16_000_000


def profile_seconds(tsv: Path, folder: Path, processes: int | None) -> float:
    """Time the profiling of a TSV, seconds, the start of the processes included."""
    start = time.perf_counter()
    summary = write_profile(tsv, profile_files(folder, tsv.stem), DataConfig(), processes=processes)
    seconds = time.perf_counter() - start
    assert summary.accepted == summary.lines, "benchmarks read good lines"
    return seconds


def decode_rate(tsv: Path) -> float:
    """Decode the first images of a TSV for some seconds and count how many a second there were."""
    pairs = [
        parse_line(line.data or b"") for line in islice(read_lines(tsv, MAX_LINE_BYTES), DECODED)
    ]
    images = [
        pair.image for pair in pairs if not isinstance(pair, FaultReason) and pair.image is not None
    ]
    decoded, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < DECODE_S:
        for image in images:
            simplejpeg.decode_jpeg(image, "RGB")
        decoded += len(images)
    return decoded / seconds


def main() -> None:
    """Do what the arguments name."""
    what, tsv, *rest = sys.argv[1:]
    if what == "decode":
        print(decode_rate(Path(tsv)))
    else:
        folder, processes = rest
        print(profile_seconds(Path(tsv), Path(folder), int(processes) or None))


if __name__ == "__main__":
    main()
