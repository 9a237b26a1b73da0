# ruff: noqa: T201
"""Profile mutated lines and hold the profile to its word: `python -m tests.fuzz --lines 1000000`.

Of each chunk of lines a TSV is written, profiled by several processes and again by this one. What
must hold: both leave the same bytes; accepted and quarantined lines rebuild the TSV; what training
and export would say of a line is what its profile says; nothing is written on stderr; no line takes
over a second of a core; the processes that profile together stay below 400 MB, from the first line
to the last. The lines that break a promise are kept and the error names their file. A core does
about 500 lines/s.
"""

import argparse
import hashlib
import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.support.measure import family_bytes
from model.config.sections import DataConfig
from model.errors import FaultReason
from model.pairs import line_facts
from model.pairs.images import decode_rgb, inspect_image
from model.pairs.profile import ProfileFiles, profile_files, read_profile, write_profile
from model.pairs.tsv import BOM, count_lines, parse_line
from model.storage.files import file_digest
from tests.mutations import Mutator

CHUNK_LINES = 5_000
LINES_A_REPORT = 100_000
MAX_LINE_S = 1.0
MAX_HANG_S = 60.0
MAX_MEMORY_BYTES = 400_000_000
SAMPLE_S = 0.1
LIMITS = DataConfig()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Profile mutated lines and check what the profile promises."
    )
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--max-line-s",
        type=float,
        default=MAX_LINE_S,
        help="seconds of a core that a line may take",
    )
    options = parser.parse_args()
    print(fuzz(options.lines, options.seed, options.processes, options.max_line_s))


def fuzz(lines: int, seed: int, processes: int, max_line_s: float) -> str:
    """Profile that many mutated lines, check what must hold, and return one line of figures.

    Raises:
        AssertionError: a promise does not hold; its note names the file that the lines are kept in.
    """
    mutator, figures = Mutator(seed), Figures(max_line_s)
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        watched(figures),
        silent_stderr(),
        profiler_process() as profiler,
    ):
        tsv, reported = Path(folder) / "fuzz.tsv", 0

        while figures.lines < lines:
            write_lines(tsv, mutator, min(CHUNK_LINES, lines - figures.lines))
            with kept_on_failure(tsv):
                check_profiles(tsv, processes, profiler, figures)

            if figures.lines - reported >= LINES_A_REPORT and figures.lines < lines:
                reported = figures.lines
                print(figures, flush=True)
    return f"{figures}, seed {seed}"


def write_lines(tsv: Path, mutator: Mutator, count: int) -> None:
    """Write so many mutated lines, with a newline behind the last one or without."""
    with tsv.open("wb") as file:
        for line in mutator.lines(count):
            file.write(b"\n" * (file.tell() > 0) + line)
        file.write(b"\n" * (file.tell() == 0 or mutator.rng.random() < 0.5))


@dataclass
class Figures:
    """What a run prints; and the line at work, so that one that takes too long can be named."""

    max_line_s: float
    lines: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    line: bytes | None = None
    line_started: float = 0.0

    def timed(self, function: Callable[..., Any], line: bytes, *arguments: Any) -> Any:
        """Call a function that works on a line, and hold it to its share of this thread's time."""
        self.line, self.line_started = line, time.monotonic()
        before = time.thread_time()
        result = function(*arguments)
        seconds = time.thread_time() - before
        self.line, self.slowest_s = None, max(self.slowest_s, seconds)
        assert seconds < self.max_line_s, (
            f"a line takes {seconds:.2f} s; it is kept in {keep(line)}"
        )
        return result

    def __str__(self) -> str:
        return (
            f"{self.lines:,} lines, {self.accepted:,} accepted, "
            f"{self.lines - self.accepted:,} quarantined, 0 lost, "
            f"0 exceptions, slowest {self.slowest_s:.2f} s, peak {self.peak_bytes / 1e6:.0f} MB, "
            f"{time.monotonic() - self.started:.0f} s"
        )


# --- what must hold ---


def check_profiles(
    tsv: Path, processes: int, profiler: ProcessPoolExecutor, figures: Figures
) -> None:
    """Profile a TSV twice and check everything about both profiles."""
    shared, alone = (profile_files(tsv.parent, name) for name in ("shared", "alone"))
    with memory(profiler.submit(os.getpid).result(), figures):
        summary = profiler.submit(write_profile, tsv, shared, LIMITS, processes=processes).result()

    assert figures.peak_bytes < MAX_MEMORY_BYTES, (
        f"the processes that profile take too much memory: {figures}"
    )
    with timed_rows(figures):
        assert write_profile(tsv, alone, LIMITS, processes=1) == summary, (
            "the counts depend on the processes"
        )

    for one, other in zip(shared[:3], alone[:3], strict=True):
        assert one.exists() == other.exists() and (
            not one.exists() or file_digest(one) == file_digest(other)
        ), one.name

    # Every line has a row, and rows and quarantine together are the file again.
    table = read_profile(shared.table, ["line", "offset", "length", "fault"]).to_pylist()
    assert summary.lines == len(table) == count_lines(tsv), f"{len(table)} rows"
    with lines_at(tsv, table) as lines:
        assert rebuilt_digest(tsv, shared, table, lines()) == file_digest(tsv), (
            "the lines do not rebuild the file"
        )

        for line, row in zip(lines(), table, strict=True):
            fault = figures.timed(verdict, line, line)
            assert fault == row["fault"], (
                f"profiled as {row['fault']}, decoded as {fault}; it is kept in {keep(line)}"
            )

    figures.lines += summary.lines
    figures.accepted += summary.accepted


def verdict(line: bytes, limits: DataConfig = LIMITS) -> FaultReason | None:
    """Return the fault that export and training meet in a line, None where they get its pixels."""
    pair = parse_line(line)
    if isinstance(pair, FaultReason):
        return pair
    image = pair.image or b""
    facts = inspect_image(image, limits.max_pixels, limits.min_image_side)
    decoded = facts if isinstance(facts, FaultReason) else decode_rgb(image, limits.max_pixels)
    return decoded if isinstance(decoded, FaultReason) else None


@contextmanager
def lines_at(tsv: Path, table: list[dict[str, Any]]) -> Iterator[Callable[[], Iterator[bytes]]]:
    """Yield a function that reads the lines of a TSV where its profile says that they are."""
    with tsv.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield lambda: (data[row["offset"] : row["offset"] + row["length"]] for row in table)


def rebuilt_digest(
    tsv: Path, files: ProfileFiles, table: list[dict[str, Any]], lines: Iterator[bytes]
) -> str:
    """Return the SHA-256 of the accepted and the quarantined lines put together again."""
    whole = hashlib.sha256(BOM if table[0]["offset"] else b"")
    with ExitStack() as stack:
        quarantined = (
            stack.enter_context(files.quarantine.open("rb")) if files.quarantine.exists() else None
        )
        for line, row in zip(lines, table, strict=True):
            if row["fault"] is not None:
                assert quarantined is not None
                number, reason, line = quarantined.readline().removesuffix(b"\n").split(b"\t", 2)
                assert (int(number), reason.decode()) == (row["line"], row["fault"])
            whole.update(line)
            if row["line"] < len(table) or ends_in_newline(tsv):
                whole.update(b"\n")
    return whole.hexdigest()


def ends_in_newline(path: Path) -> bool:
    """Whether the last byte of a file is a newline."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


# --- instruments ---


@contextmanager
def timed_rows(figures: Figures) -> Iterator[None]:
    """Time every line that is profiled in this process."""
    original = line_facts._row

    def timed(line: Any, *arguments: Any) -> Any:
        return figures.timed(original, line.data, line, *arguments)

    line_facts._row = timed
    try:
        yield
    finally:
        line_facts._row = original


@contextmanager
def repeated(task: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a task again and again in a thread of its own."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            task()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def profiler_process() -> ProcessPoolExecutor:
    """Return one process that profiles every file, so that its memory is profiling's alone."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def memory(process: int, figures: Figures) -> Any:
    """Watch the memory of a process and those that it started, shared pages counted once."""

    def sample() -> None:
        figures.peak_bytes = max(figures.peak_bytes, family_bytes(process))

    return repeated(sample, SAMPLE_S)


def watched(figures: Figures) -> Any:
    """End the run when a line takes a minute, and name it.

    A loop in C cannot be interrupted otherwise.
    """

    def look() -> None:
        line, started = figures.line, figures.line_started
        if line is not None and time.monotonic() - started > MAX_HANG_S:
            print(f"a line takes over {MAX_HANG_S:.0f} s; it is kept in {keep(line)}", flush=True)
            os._exit(3)

    return repeated(look, 1)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Check that nobody, a C library included, writes on stderr."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            written = file.read().decode(errors="replace")
    assert not written, f"written on stderr: {written[:2000]}"


@contextmanager
def kept_on_failure(tsv: Path) -> Iterator[None]:
    """Name in whatever goes wrong where the lines are kept."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"its lines are kept in {shutil.copy(tsv, keep(b''))}")
        raise


def keep(line: bytes) -> str:
    """Write a line to a file of its own that stays."""
    with tempfile.NamedTemporaryFile(prefix="fuzz-", suffix=".tsv", delete=False) as file:
        file.write(line)
    return file.name


if __name__ == "__main__":
    main()
