"""How benchmarks measure: ways in turns, processor seconds, memory of a family of processes.

A core's speed is measured in processor seconds of this process rather than by the clock, so a busy
machine disturbs it little; ratios are medians of the ratios within a round. Memory comes from the
kernel's own accounts (Linux only).
"""

import statistics
import subprocess
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

ROUNDS = 5
SAMPLE_S = 0.1

Seconds = dict[str, list[float]]


def parts_parser(description: str | None, parts: Iterable[str]) -> ArgumentParser:
    """Make a parser of ``--only``, the parts of a benchmark that are run, all by default."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    names = list(parts)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    return parser


def core_seconds(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> Seconds:
    """Time each way in processor seconds, a value a round; a first round warms up, unmeasured."""
    taken: Seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in taken.items()}


def times_faster(seconds: Seconds, ours: str, peer: str) -> float:
    """Compute how many times faster ours was than the peer, the median of the rounds."""
    rounds = zip(seconds[ours], seconds[peer], strict=True)
    return statistics.median(theirs / own for own, theirs in rounds)


def print_rates(title: str, rows: int, seconds: Seconds) -> None:
    """Print a table of rows a second a core."""
    print(f"\n{title}: {rows:,} rows, {len(next(iter(seconds.values())))} rounds in turns")
    for name, values in seconds.items():
        print(f"{name:>34} {rows / statistics.median(values):9,.0f} rows/s a core")


def print_bar(name: str, value: float, relation: str, target: float) -> None:
    """Print ``BAR name value >= target ok``, or ``short``; ``relation`` is ``>=`` or ``<=``."""
    met = value >= target if relation == ">=" else value <= target
    print(f"BAR {name} {value:.3g} {relation} {target:g} {'ok' if met else 'short'}", flush=True)


def private_bytes() -> int:
    """Measure the memory of this process that no file backs and no other process shares."""
    return _rollup("self", "Private_Dirty:")


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """Wait for a process and return the peak of its `family_bytes`."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, family_bytes(process.pid))
        time.sleep(SAMPLE_S)
    return peak


def family_bytes(process: int) -> int:
    """Measure the memory of a process and its descendants, a shared page counted once."""
    return sum(_rollup(member, "Pss:") for member in _family(process))


def _family(process: int) -> Iterator[int]:
    """Yield a process, those that it started, and theirs."""
    yield process
    for child in children(process):
        yield from _family(child)


def children(process: int) -> list[int]:
    """List the processes that a process started; what ends meanwhile has none."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _rollup(process: int | str, account: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(account))
