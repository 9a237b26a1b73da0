"""From TSV lines to the image tower's input: against the ways of others, profiling, opening,
memory, and training.

Usage: REAL_PAIRS=<folder> python benchmarks/input.py [--only rows profile workers open memory
train]

Takes about 10 minutes on two cores and 3 GB of the temporary folder. Without real pairs it reads
drawn ones.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torchvision.io import decode_jpeg

from benchmarks.support import peers
from benchmarks.support.measure import (
    ROUNDS,
    core_seconds,
    parts_parser,
    peak_bytes,
    print_bar,
    print_rates,
    times_faster,
)
from benchmarks.support.opening import write_sparse
from benchmarks.support.pictures import (
    Captioned,
    captioned_pictures,
    lines_of,
    real_split,
    write_tsv,
)
from benchmarks.support.profiling import profile_seconds
from benchmarks.support.training import step_seconds
from model.pairs.tsv import decode_base64

PICTURES = {256: 200, 800: 60}
OURS, OPEN_CLIP, EASYNLP = "commerce-clip", "open_clip transform", "EasyNLP"
WORKER_ROWS = 60_000  # starting the processes takes 0.6 s, which a file worth two of them outweighs
OPENED_BYTES, OPENED_ROWS, READS = 10_000_000_000, 500_000, 100_000
MEMORY_ROWS = 2_000_000


def main() -> None:
    """Run the parts that were asked for, all by default."""
    parts: dict[str, Callable[[list[Captioned], Path], None]] = {
        "rows": bench_rows,
        "profile": bench_profile,
        "workers": bench_workers,
        "open": bench_open,
        "memory": bench_memory,
        "train": bench_train,
    }
    options = parts_parser(__doc__, parts).parse_args()
    warnings.filterwarnings(
        "ignore", message="Creating a tensor from a list of numpy.ndarrays"
    )  # EasyNLP's way
    torch.set_num_threads(1)
    pictures = captioned_pictures(max(PICTURES.values()))
    print(
        f"{len(pictures)} {'real' if real_split('test') else 'drawn'} pictures, "
        "encoded again as JPEG, quality 90"
    )
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](pictures, Path(folder))


def bench_rows(pictures: list[Captioned], folder: Path) -> None:
    """Make the input of the image tower from lines on one core, in every way."""
    worst = 0.0
    for side, count in PICTURES.items():
        lines = lines_of(pictures[:count], side)
        worst = max(worst, *(_difference(line) for line in lines))
        seconds = core_seconds(_ways(lines, folder / f"{side}.tar"))
        print_rates(f"line to 3x224x224, {side} px JPEG", len(lines), seconds)
        print_bar(
            f"input_{side}px_over_open_clip", times_faster(seconds, OURS, OPEN_CLIP), ">=", 3.2
        )
        if side == 256:
            print_bar(
                f"input_{side}px_over_easynlp", times_faster(seconds, OURS, EASYNLP), ">=", 25
            )
    print_bar("input_largest_pixel_difference", worst, "<=", 2)


def _ways(lines: list[bytes], tar: Path) -> dict[str, Callable[[], None]]:
    texts = [line.decode() + "\n" for line in lines]
    ways = {
        OURS: lambda: _exhaust(map(peers.our_input, lines)),
        f"{OURS}, normalised too": lambda: _exhaust(map(peers.our_normalised_input, lines)),
        OPEN_CLIP: lambda: _exhaust(map(peers.open_clip_input, lines)),
        EASYNLP: lambda: _exhaust(map(peers.easynlp_input, texts)),
    }
    if find_spec("webdataset") is None:
        print("webdataset is not installed; its rows are left out")
        return ways
    peers.write_tar(lines, tar)
    return ways | {
        "webdataset, open_clip transform": lambda: _exhaust(peers.webdataset_inputs(tar))
    }


def _exhaust(inputs: Iterable[torch.Tensor]) -> None:
    for _ in inputs:
        pass


def _difference(line: bytes) -> float:
    """Return the largest difference of a line's input from open_clip's, in levels of 255."""
    theirs = peers.denormalised(peers.open_clip_input(line)).mul(255).round()
    return float((peers.our_input(line).float() - theirs).abs().max())


def bench_profile(pictures: list[Captioned], folder: Path) -> None:
    """Profile on one core, against torchvision decoding the same images and nothing else."""
    lines = lines_of(pictures, 256)
    tsv = write_tsv(folder / "profiled.tsv", lines, 5 * len(lines))
    images = [decode_base64(line.split(b"\t")[1]) or b"" for line in lines]
    tensors = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images] * 5
    seconds = core_seconds(
        {
            "profile": lambda: profile_seconds(tsv, folder, processes=1),
            "torchvision decode_jpeg": lambda: _exhaust(map(decode_jpeg, tensors)),
        }
    )
    print_rates("profiling, 256 px JPEG", len(tensors), seconds)
    print_bar(
        "profile_over_decode_jpeg",
        times_faster(seconds, "profile", "torchvision decode_jpeg"),
        ">=",
        0.80,
    )


def bench_workers(pictures: list[Captioned], folder: Path) -> None:
    """Profile with two processes against one.

    Bare decoding in two against one is what the machine gives.
    """
    tsv = write_tsv(folder / "shared.tsv", lines_of(pictures, 256), WORKER_ROWS)
    gains, ceilings = [], []
    for _ in range(ROUNDS):
        one, two = (float(_wait(_profiler("profile", tsv, folder, workers))) for workers in (1, 2))
        gains.append(one / two)
        alone = float(_wait(_profiler("decode", tsv)))
        together = [_profiler("decode", tsv) for _ in range(2)]
        ceilings.append(sum(float(_wait(process)) for process in together) / alone)
    print(f"\ntwo workers over one, {WORKER_ROWS:,} rows, {ROUNDS} rounds in turns")
    print(f"{'profiling':>34} {statistics.median(gains):5.2f} x")
    print(f"{'bare decoding (the ceiling)':>34} {statistics.median(ceilings):5.2f} x")
    print_bar("profile_two_workers_over_one", statistics.median(gains), ">=", 1.7)


def bench_open(pictures: list[Captioned], folder: Path) -> None:
    """Open a large TSV by its profile and read from it at random."""
    tsv, profile = folder / "large.tsv", folder / "large.profile.parquet"
    write_sparse(tsv, profile, lines_of(pictures, 32), OPENED_ROWS, OPENED_BYTES)
    found = json.loads(_wait(_module("benchmarks.support.opening", tsv, profile, READS)))
    print(
        f"\nopening {tsv.stat().st_size / 1e9:.1f} GB of {OPENED_ROWS:,} rows, "
        f"then {READS:,} random reads"
    )
    print(
        f"{found['open_s'] * 1000:.0f} ms to open; {found['rate']:,.0f} reads/s; "
        "private memory in MB: ",
        end="",
    )
    print(", ".join(f"{name} {found[name] / 1e6:.0f}" for name in ("imported", "opened", "read")))
    print_bar("open_seconds", found["open_s"], "<=", 0.1)
    print_bar("open_private_mb", found["read"] / 1e6, "<=", 300)


def bench_memory(pictures: list[Captioned], folder: Path) -> None:
    """Profile two million rows and watch the memory of all processes."""
    tsv = write_tsv(folder / "many.tsv", lines_of(pictures, 32), MEMORY_ROWS)
    process = _profiler("profile", tsv, folder, 0)
    peak = peak_bytes(process)
    seconds = float(_wait(process))
    print(
        f"\nprofiling {MEMORY_ROWS:,} rows, {tsv.stat().st_size / 1e9:.1f} GB: "
        f"{seconds:.0f} s on all cores"
    )
    print_bar("profile_peak_mb", peak / 1e6, "<=", 300)


def bench_train(pictures: list[Captioned], folder: Path) -> None:
    """Train on the real input and on a ready batch."""
    tsv = folder / "train.tsv"
    real = real_split("train")
    if real is None:
        write_tsv(tsv, lines_of(pictures, 224), 4_000)
    else:
        tsv.symlink_to(real)
    seconds = step_seconds(tsv, folder)
    print(f"\ntraining steps of configs/fashion-products.yaml, all cores, {ROUNDS} rounds in turns")
    for name, values in seconds.items():
        print(f"{name:>34} {statistics.median(values) * 1000:6.0f} ms")
    print_bar(
        "train_real_over_ready_input",
        times_faster(seconds, "real input", "ready batch"),
        ">=",
        0.95,
    )


def _module(name: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


_profiler = partial(_module, "benchmarks.support.profiling")


def _wait(process: subprocess.Popen[str]) -> str:
    """Return what a process printed; its own trace tells why it failed."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process of the benchmark failed with {process.returncode}")
    return printed


if __name__ == "__main__":
    main()
