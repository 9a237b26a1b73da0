"""Exact Rank@K both ways against the bare float32 matrix product on the same embeddings, interleaved, medians.

Usage: python benchmarks/rank.py [--pairs 8192] [--width 512] [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from model.retrieval import evaluate_retrieval, relate

TARGET = 1.35


def main() -> None:
    """Print the table and the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(options.pairs, options.width, generator=generator), dim=1)
    image = normalize(text + 0.5 * torch.randn(options.pairs, options.width, generator=generator), dim=1)
    names = [str(row) for row in range(options.pairs)]
    related = relate(names, names)
    ways: dict[str, Callable[[], object]] = {
        "bare product": lambda: text @ image.T,
        "Rank@K both ways": lambda: evaluate_retrieval(text, image, related, 1024),
    }
    seconds = measure(ways, options.rounds)
    print(f"{options.pairs:,} captions x {options.pairs:,} images, {options.width} dimensions, {options.rounds} rounds")
    for name, value in seconds.items():
        print(f"{name:>18} {value:7.2f} s")
    ratio = seconds["Rank@K both ways"] / seconds["bare product"]
    print(f"BAR rank_over_bare_product {ratio:.2f} <= {TARGET} {'ok' if ratio <= TARGET else 'short'}")


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, run in turns so that noise hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}  # the first round warms up


if __name__ == "__main__":
    main()
