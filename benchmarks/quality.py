"""What the training recipe and each of its parts are worth on real pairs: mean recall at equal
steps and at equal time.

Usage: REAL_PAIRS=<folder> python benchmarks/quality.py [--only steps time ablation concepts
retention] [--seeds 0 1 2]

Small towers from scratch on ``fashion-products``; rates and batches were tuned on a split carved
from train, and test is evaluated once a run. A run of eight epochs takes about 5 minutes of a core,
all parts with three seeds some 8 hours. What a run ended with is kept in ``state/benchmarks`` by
all that decides it, the code included: a benchmark that was stopped goes on, and a second one with
the seeds in another order shares the work.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.support.measure import parts_parser, print_bar
from benchmarks.support.recipes import Pairs, Result, result_of
from benchmarks.support.retention import retention_ratio

# The recipe is that of configs/fashion-products.yaml at a larger batch; each part is what is taken
# from it.
FULL: dict[str, Any] = {"batch_size": 256, "lr": 7e-4}
# open_clip's loss and light crop, AdamW; the best of 5e-4, 7e-4, 1e-3 and 2e-3 on valid.
PLAIN: dict[str, Any] = FULL | {
    "concept_weight": 0.0,
    "mask_duplicates": False,
    "optimizer": "adamw",
}
PARTS: dict[str, dict[str, Any]] = {
    "concept prototypes": {"concept_weight": 0.0},
    "Muon": {"optimizer": "adamw"},
    "duplicates are no negatives": {"mask_duplicates": False},
}
ADDITIONS: dict[str, dict[str, Any]] = {
    "nearest-neighbour supervision": {"nearest_weight": 0.2},
    "moving average of weights": {"ema_decay": 0.99},
    "captions as keyword queries": {"keyword_share": 0.2},
}
EPOCHS = 8


def main() -> None:
    """Run the parts that were asked for, all by default."""
    parts: dict[str, Callable[[Bench], None]] = {
        "steps": bench_steps,
        "time": bench_time,
        "ablation": bench_ablation,
        "concepts": bench_concepts,
        "retention": bench_retention,
    }
    parser = parts_parser(__doc__, parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.seeds)
        for name in options.only:
            parts[name](bench)


class Bench:
    """The pairs that are trained and evaluated on, and the seeds that every recipe is run with."""

    def __init__(self, folder: Path, seeds: list[int]) -> None:
        """Profile the pairs in a folder."""
        self.pairs, self.seeds = Pairs(folder), seeds

    def run(self, epochs: int, changes: dict[str, Any], is_learned: bool = False) -> list[Result]:
        """Train a recipe, a result a seed."""
        return [
            result_of(self.pairs, {**changes, "epochs": epochs}, seed, is_learned)
            for seed in self.seeds
        ]

    def try_out(self, epochs: int, changes: dict[str, Any]) -> Result:
        """Train a recipe with the first seed alone: choices are made on its valid."""
        return result_of(self.pairs, {**changes, "epochs": epochs}, self.seeds[0], is_learned=False)


def recall(results: Iterable[Result]) -> float:
    """Average the mean recalls on test."""
    return statistics.mean(result.test for result in results)


def print_row(name: str, results: list[Result], against: list[Result]) -> None:
    """Print a recipe's mean recall on test, %, its standard error, ratio, and keyword queries."""
    values = [100 * result.test for result in results]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    seconds = statistics.mean(result.step_s for result in results)
    keyword = statistics.mean(result.keyword for result in results)
    ratio = recall(results) / recall(against)
    print(
        f"{name:>40} {statistics.mean(values):6.1f} ± {error:3.1f} {ratio:7.2f} x "
        f"{100 * keyword:6.1f} of keyword queries {seconds:7.2f} s a step",
        flush=True,
    )


def print_head(title: str, seeds: list[int]) -> None:
    """Print the head of a table."""
    print(f"\n{title}, mean recall on test, %, {len(seeds)} seeds")


def bench_steps(bench: Bench) -> None:
    """Compare the recipe with plain InfoNCE after equally many steps."""
    for epochs, target in ((EPOCHS, 1.35), (2 * EPOCHS, 1.28)):
        print_head(f"Equal steps, {epochs} epochs", bench.seeds)
        plain, full = bench.run(epochs, PLAIN), bench.run(epochs, FULL)
        print_row("plain InfoNCE, AdamW", plain, plain)
        print_row("full recipe", full, plain)
        print_bar(
            f"quality_equal_steps_{epochs}_epochs", recall(full) / recall(plain), ">=", target
        )


def bench_time(bench: Bench) -> None:
    """Compare the recipe with plain InfoNCE after equal time, each with what is best on valid."""
    print_head(f"Equal time, {EPOCHS} epochs of the recipe", bench.seeds)
    # The recipe's batch and rate, and the seconds that they take.
    tried_out = ((256, 7e-4), (128, 7e-4), (64, 7e-4), (64, 5e-4))
    batches = [FULL | {"batch_size": size, "lr": lr} for size, lr in tried_out]
    recipe = max(batches, key=lambda changes: bench.try_out(EPOCHS, changes).valid)
    seconds = bench.try_out(EPOCHS, recipe).seconds

    # Plain InfoNCE's, for as many epochs as that time allows.
    tried = []
    plain_tries = (256, 7e-4), (128, 7e-4), (128, 1e-3), (64, 5e-4), (64, 7e-4), (64, 1e-3)
    for batch_size, lr in plain_tries:
        changes = PLAIN | {"batch_size": batch_size, "lr": lr}
        epochs = max(1, round(EPOCHS * seconds / bench.try_out(EPOCHS, changes).seconds))
        tried.append((bench.try_out(epochs, changes).valid, epochs, changes))
        print(
            f"plain InfoNCE, batch {batch_size}, lr {lr:g}, {epochs} epochs: "
            f"{100 * tried[-1][0]:.1f} on valid"
        )

    _, epochs, changes = max(tried, key=lambda one: one[0])
    plain, full = bench.run(epochs, changes), bench.run(EPOCHS, recipe)
    print_row(f"plain InfoNCE, batch {changes['batch_size']}, {epochs} epochs", plain, plain)
    print_row(f"full recipe, batch {recipe['batch_size']}", full, plain)
    print_bar("quality_equal_time", recall(full) / recall(plain), ">=", 1.30)


def bench_ablation(bench: Bench) -> None:
    """Take each part from the recipe, and add what is off."""
    print_head(f"Ablation, {EPOCHS} epochs", bench.seeds)
    full = bench.run(EPOCHS, FULL)
    print_row("full recipe", full, full)
    for name, changes in PARTS.items():
        print_row(f"less {name}", bench.run(EPOCHS, FULL | changes), full)
    for name, changes in ADDITIONS.items():
        print_row(f"with {name}", bench.run(EPOCHS, FULL | changes), full)


def bench_concepts(bench: Bench) -> None:
    """Measure what the queue's prototypes are worth, under Muon and under AdamW."""
    for optimizer, changes in {"full recipe": FULL, "with AdamW": FULL | PARTS["Muon"]}.items():
        print_head(f"Concept terms, {optimizer}, {EPOCHS} epochs", bench.seeds)
        full = bench.run(EPOCHS, changes)
        learned = bench.run(EPOCHS, changes, is_learned=True)
        none = bench.run(EPOCHS, changes | {"concept_weight": 0.0})
        print_row("without a concept term", none, none)
        print_row("learned concept embeddings", learned, none)
        print_row("prototypes from the feature queue", full, none)
        name = "quality_prototypes" if changes == FULL else "quality_prototypes_adamw"
        print_bar(f"{name}_over_learned", recall(full) / recall(learned), ">=", 1.05)
        print_bar(f"{name}_over_none", recall(full) / recall(none), ">=", 1.20)


def bench_retention(bench: Bench) -> None:
    """Measure what fine-tuning forgets, plainly and with distillation and interpolation."""
    retained, gained = retention_ratio(seeds=bench.seeds)
    print_bar("quality_retention", retained, ">=", 1.10)
    print_bar("quality_retention_new_split_points", 100 * gained, ">=", 0)


if __name__ == "__main__":
    main()
