"""Exact Rank@K both ways beside the bare float32 product and two peers, on the same embeddings, in
turns, medians.

The peers are written after what they stand for: EasyNLP's evaluator (one product, then for each
query a full sort and a look into it, one direction) and open_clip's of mid-2026 (chunks of 4,096
both ways, places of ties by index). The bare product fills a block that is used again, which is the
fastest way to it; EasyNLP is timed on a share of the queries against all candidates and its time
scaled, as its line notes. Memory is the peak above the embeddings, of a process of its own.

Usage: python benchmarks/rank.py [--pairs 32528] [--width 512] [--rounds 2]
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.support.measure import core_seconds, print_bar, times_faster
from model.evaluation.retrieval import RelevantPairs, evaluate_retrieval

BARE, OURS = "bare product", "Rank@K both ways"
EASYNLP, CHUNKED = "EasyNLP, one way", "open_clip, both ways"
BLOCK_ROWS = 1024
CHUNK = 4096
EASYNLP_QUERIES = 256
MILLION = 1_000_000
# Float32 matrix products that a large GPU and 64 server cores may reach, assumed, not measured; the
# projection's alone.
GPU_TFLOPS, CORES_TFLOPS = 40, 3


def main() -> None:
    """Print the table, the projection and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=32_528)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs, width = options.pairs, options.width
    text, image = embeddings(pairs, width)
    if options.memory:
        print_extra_memory(text, image)
        return

    queries = min(EASYNLP_QUERIES, pairs)
    ways: dict[str, Callable[[], object]] = {
        BARE: lambda: bare_product(text, image),
        OURS: lambda: rank(text, image),
        EASYNLP: lambda: easynlp_recalls(text, image, queries),
        CHUNKED: lambda: open_clip_ranks(text, image),
    }
    seconds = core_seconds(ways, options.rounds)
    seconds[EASYNLP] = [value * pairs / queries for value in seconds[EASYNLP]]

    print(f"{pairs:,} captions x {pairs:,} images, {width} dimensions, one core, in turns")
    notes = {EASYNLP: f" ({queries} queries against all, scaled)"}
    for name, values in seconds.items():
        print(f"{name:>22} {statistics.median(values):8.1f} s{notes.get(name, '')}")
    extra = extra_mb(pairs, width)
    print(f"{'extra memory':>22} {extra:8.0f} MB")
    medians = (statistics.median(seconds[name]) for name in (OURS, BARE))
    print_projection(*medians, pairs, width)

    print_bar("rank_over_bare_product", 1 / times_faster(seconds, OURS, BARE), "<=", 1.35)
    print_bar("rank_extra_memory_mb", extra, "<=", 250)
    # Ours answers both directions, EasyNLP's one.
    print_bar("rank_per_direction_over_easynlp", 2 * times_faster(seconds, OURS, EASYNLP), ">=", 8)
    print_bar("rank_over_open_clip", times_faster(seconds, OURS, CHUNKED), ">=", 1.5)


def embeddings(pairs: int, width: int) -> tuple[Tensor, Tensor]:
    """Return normalised text and image embeddings of a middling model, [pairs, width] each."""
    generator = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(pairs, width, generator=generator), dim=1)
    return text, normalize(text + 0.3 * torch.randn(pairs, width, generator=generator), dim=1)


def rank(text: Tensor, image: Tensor) -> object:
    """Rank with ours, each caption's right answer its own image."""
    rows = torch.arange(len(text))
    return evaluate_retrieval(text, image, RelevantPairs(rows, rows, rows, rows), BLOCK_ROWS)


def bare_product(text: Tensor, image: Tensor) -> None:
    """Compute all similarities in float32 and keep none.

    A block of rows at a time uses the same memory.
    """
    block = torch.empty(BLOCK_ROWS, len(image))
    for rows in torch.split(text, BLOCK_ROWS):
        torch.mm(rows, image.T, out=block[: len(rows)])


def easynlp_recalls(text: Tensor, image: Tensor, queries: int) -> list[float]:
    """Return Rank@1, 5 and 10 of the first queries as EasyNLP's evaluator finds them.

    It sorts all candidates for each query.
    """
    similarity = text[:queries] @ image.T
    found = [0, 0, 0]
    for query in range(queries):
        order = torch.sort(similarity[query], descending=True).indices
        for place, k in enumerate((1, 5, 10)):
            found[place] += query in order[:k]
    return [count / queries for count in found]


def open_clip_ranks(text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return each caption's and each image's rank from 0, by chunks.

    Of equals the lower index comes first.
    """
    pairs = len(text)
    target = torch.cat(
        [(i @ t.T).diagonal() for i, t in zip(image.split(CHUNK), text.split(CHUNK), strict=True)]
    )

    of_image, of_text = torch.zeros(pairs, dtype=torch.long), torch.zeros(pairs, dtype=torch.long)
    index = torch.arange(pairs)
    for rows in index.split(CHUNK):
        for columns in index.split(CHUNK):
            scores = image[rows] @ text[columns].T
            own, other = target[rows][:, None], target[columns][None]
            before_row = (scores > own) | ((scores == own) & (columns[None] < rows[:, None]))
            before_column = (scores > other) | ((scores == other) & (rows[:, None] < columns[None]))
            of_image[rows] += before_row.sum(1)
            of_text[columns] += before_column.sum(0)
    return of_text, of_image


def extra_mb(pairs: int, width: int) -> float:
    """Return the memory that ranking takes at its peak above that of holding the embeddings."""
    sizes = [f"--pairs={pairs}", f"--width={width}"]
    command = [sys.executable, __file__, *sizes, "--memory"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_extra_memory(text: Tensor, image: Tensor) -> None:
    """Print by how many MB this process grows at most while it ranks (Linux)."""
    rank(text[:64], image[:64])  # loads what a first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    held = resident_mb("VmRSS:")
    rank(text, image)
    print(resident_mb("VmHWM:") - held)


def resident_mb(account: str) -> float:
    """Return an account of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(account)).split()[1]) / 1024


def print_projection(seconds: float, bare_seconds: float, pairs: int, width: int) -> None:
    """Print how long a million by a million takes as measured, and where products are faster."""
    times = (MILLION / pairs) ** 2
    flops = 2 * MILLION**2 * width
    factor = seconds / bare_seconds
    gpu, cores = (flops / (tflops * 1e12) * factor for tflops in (GPU_TFLOPS, CORES_TFLOPS))
    print(
        f"{'1,000,000 x 1,000,000':>22} {seconds * times / 3600:8.1f} h on this core, the same "
        f"memory; at the measured {factor:.2f} x of the product {cores / 60:.0f} min on cores of "
        f"{CORES_TFLOPS} TFLOP/s, {gpu:.0f} s on a GPU of {GPU_TFLOPS} TFLOP/s"
    )


if __name__ == "__main__":
    main()
