"""How often the gate errs, and what it finds: equal, better and worse challengers, drawn by chance.

`make bench BENCH=gate` prints three tables: equal models by make of the catalogue, weeks of
decisions at a true difference, and the guarded slices. Everything is simulated with the gate's own
functions on catalogues of `benchmarks.support.challengers`; ten
minutes of a core.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from benchmarks.support.challengers import (
    SLICES,
    Catalogue,
    draw_catalogue,
    draw_model,
    fallen_slices,
    luck_of,
)
from benchmarks.support.measure import parts_parser, print_bar
from model.config.gate import GateConfig
from model.evaluation.exchange import Lead, gains, lead_of, query_weights, sum_by_source
from tasks.promotion.budget import MAX_CHANCE

GATE = GateConfig()
PART = GATE.yearly_risk / GATE.yearly_decisions
TRIALS, DRAWS = 400, 2000
WEEKS, MONTH = 52, 4
YEARS, MONTHS = 100, 400
SHARED = 0.3


def main() -> None:
    """Print the tables of the chosen parts."""
    parts: dict[str, Callable[[], None]] = {
        "equal": print_equal,
        "year": print_year,
        "slices": print_slices,
    }
    for name in parts_parser(__doc__, parts).parse_args().only:
        parts[name]()


def print_equal() -> None:
    """Print how often an equal model passes one decision at 2.5 %.

    The rows differ in products, pairs a product, captions of several products, and shared luck.
    """
    print(f"\nEqual models, {TRIALS} trials a row, limit {MAX_CHANCE:.1%}")
    print("products  pairs each  common captions  shared luck  promoted")
    worst = 0.0
    for products, pairs, common in ((250, 4, 0.0), (250, 4, 0.3), (60, 20, 0.5), (1000, 1, 0.3)):
        catalogue = draw_catalogue(products, pairs, common, seed=1)
        for shared in (0.0, 0.3, 0.6, 0.9):
            leads = [lead(catalogue, shared, seed) for seed in range(TRIALS)]
            share = np.mean([one.low > 0 and one.chance <= MAX_CHANCE for one in leads])
            worst = max(worst, float(share))
            print(f"{products:8} {f'1 to {pairs}':>11} {common:16.0%} {shared:12} {share:9.1%}")
    # By chance the worst of 16 rows of a true 2.5 % has two standard errors more.
    error = math.sqrt(MAX_CHANCE * (1 - MAX_CHANCE) / TRIALS)
    print_bar("gate: equal models promoted, worst row", worst, "<=", MAX_CHANCE + 2.5 * error)


def print_year() -> None:
    """Print what becomes of weekly challengers that are no better, better and worse."""
    print(f"\nWeekly challengers against one champion; {YEARS} years of {WEEKS}, {MONTHS} months")
    print("products  pairs each  points  promoted  at its part  at 2.5 % each")
    for products, pairs, each in ((1000, 4, "4"), (1000, 4, "1 to 4"), (1000, 1, "1")):
        catalogue = draw_catalogue(products, pairs, 0.0, seed=1, is_even=each == "4")
        rows = ((0.02, MONTH, MONTHS), (0.0, WEEKS, YEARS), (0.01, WEEKS, YEARS))
        for points, weeks, trials in (*rows, (-0.01, WEEKS, YEARS)):
            chances = np.array(
                [weekly_chances(catalogue, points, weeks, seed) for seed in range(trials)]
            )
            by_part, alone = ((chances <= limit).any(axis=1).mean() for limit in (PART, MAX_CHANCE))
            when = f"within {weeks} weeks" if weeks < WEEKS else "in a year"
            print(
                f"{products:8} {each:>11} {100 * points:+7.0f}  {when:14} "
                f"{by_part:6.0%} {alone:14.0%}",
                flush=True,
            )

            name = f"gate: {100 * points:+.0f} points, {products:,} products of {each}, {when}"
            if points == 0:
                print_bar(name, by_part, "<=", GATE.yearly_risk)
            elif points == 0.02:
                print_bar(name, by_part, ">=", 0.8)


def print_slices() -> None:
    """Print how often a table of ten slices has a false fall, and a true one is found."""
    print(f"\nTen guarded slices that may fall by 5 points, {TRIALS} trials a row")
    print("pairs a slice  false alarm of the table  fall of 10 points found")
    for pairs in (30, 100, 300):
        equal = [fallen_slices(seed, pairs * SLICES, 0.0).any() for seed in range(TRIALS)]
        found = [fallen_slices(seed, pairs * SLICES, 0.1)[0] for seed in range(TRIALS)]
        print(f"{pairs:13} {np.mean(equal):25.1%} {np.mean(found):24.0%}", flush=True)
        if pairs == 100:
            print_bar("gate: false alarm of ten slices", float(np.mean(equal)), "<=", 0.07)
            print_bar("gate: fall of 10 points found", float(np.mean(found)), ">=", 0.8)


def lead(catalogue: Catalogue, shared: float, seed: int, points: float = 0.0) -> Lead:
    """Measure the lead of a model that is better by some points of mean recall."""
    new = draw_model(catalogue, shared, (seed, 1), luck_of(points))
    old = draw_model(catalogue, shared, (seed, 2))
    return lead_of(new, old, catalogue.luck, DRAWS, seed)


def weekly_chances(catalogue: Catalogue, points: float, weeks: int, seed: int) -> list[float]:
    """Return the chance of each week's decision against one champion on one test split.

    It is that of infinitely many exchanges, by the normal distribution: at 1,000 products the same
    to a tenth, at a hundredth of the time.
    """
    champion, luck = draw_model(catalogue, SHARED, (seed, 0)), luck_of(points)
    chances = []
    for week in range(weeks):
        challenger = draw_model(catalogue, SHARED, (seed, 1, week), luck)
        gain = gains(challenger, champion) * query_weights(challenger)
        moved = sum_by_source(gain[:, None], catalogue.luck)
        chances.append(NormalDist(0, float(np.sqrt((moved**2).sum()))).cdf(-float(gain.sum())))
    return chances


if __name__ == "__main__":
    main()
