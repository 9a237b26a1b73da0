"""Slices of a split: how a model does on each category, colour, length of caption, and which are
worse than by chance.

The unit is a product (a group of captions and images that belong together) and its value the mean
recall of its queries, both directions, so a slice's figure is comparable with the whole's. Hundreds
of slices are looked at, and some look bad by chance: values are permuted among the products, and a
slice counts as worse only where its gap to the rest exceeds what the worst gap of all slices
reaches in 95 % of the permutations (Westfall and Young's maximum statistic; DECISIONS 29). 2,000
permutations of 32,528 products in 200 slices take about 20 s of a core.

Shapes: N products, S slices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from model.evaluation.bootstrap import draw_in_blocks
from model.evaluation.retrieval import Floats, Ints, RetrievalResult
from model.pairs.words import words_of

PERMUTATIONS = 2000
Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Slice:
    """The products that share a value of a column.

    ``value`` is their mean recall with Wilson's 95 % interval, ``gap`` the difference from the rest
    of the split, and ``p`` the share of permutations in which some slice falls as far below the
    rest, measured in standard errors.
    """

    column: str
    name: str
    products: int
    value: float
    low: float
    high: float
    gap: float
    p: float


def product_recall(result: RetrievalResult, groups: tuple[Ints, Ints]) -> tuple[Ints, Floats]:
    """Return the groups, ascending, int64 [N], and the mean recall of each, float64 [N].

    ``groups`` says which group each caption and each image belongs to; a group's recall is the mean
    of both directions'.
    """
    names = np.unique(np.concatenate(groups))
    means = []
    for side, group in zip((result.text_to_image, result.image_to_text), groups, strict=True):
        at = np.searchsorted(names, group)
        means.append(np.bincount(at, side.hits, len(names)) / np.bincount(at, minlength=len(names)))
    return names, np.mean(means, axis=0)


def slice_products(
    value_N: Floats,
    labels: Mapping[str, Sequence[str]],
    seed: int,
    permutations: int = PERMUTATIONS,
) -> list[Slice]:
    """Return every slice of every column, in the order of columns and names; no label is no slice.

    ``labels`` holds the label of each product, [N] a column. A slice that is the whole split has no
    rest and no gap.
    """
    columns = {column: np.array(label_N, dtype=object) for column, label_N in labels.items()}
    names = [(column, name) for column in labels for name in sorted(set(labels[column]) - {""})]
    if not names:
        return []

    member_SN = np.array([columns[column] == name for column, name in names], dtype=np.float64)
    observed_S = _standardised_gaps(value_N[None], member_SN)[0]
    generator = np.random.default_rng(seed)

    def permute(rows: int) -> Floats:
        shuffled = generator.permuted(np.broadcast_to(value_N, (rows, len(value_N))), axis=1)
        return cast("Floats", _standardised_gaps(shuffled, member_SN).min(axis=1))

    # The lowest standardised gap of any slice in each permutation.
    worst = draw_in_blocks(permute, permutations, len(value_N))
    total, products, slices = value_N.sum(), len(value_N), []
    for number, (column, name) in enumerate(names):
        size = int(member_SN[number].sum())
        inside = float(member_SN[number] @ value_N)
        value = inside / size
        rest = (total - inside) / (products - size) if size < products else value

        # The observed order is one of the permutations, so p is never 0.
        p = (1 + int((worst <= observed_S[number] + 1e-12).sum())) / (1 + permutations)
        low, high = wilson(value, size)
        slices.append(Slice(column, name, size, value, low, high, float(value - rest), p))
    return slices


def worst_slices(slices: Sequence[Slice], most: int = 10, p: float = 0.05) -> list[Slice]:
    """Return the slices that are worse than the rest by more than noise, the widest gap first.

    At most ``most``.
    """
    worse = (each for each in slices if each.p <= p and each.gap < 0)
    return sorted(worse, key=lambda each: each.gap)[:most]


def wilson(share: float, size: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a mean of ``size`` values between 0 and 1.

    It is wide where there are few.
    """
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z / (1 + Z**2 / size) * math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def length_labels(captions: Sequence[str]) -> list[str]:
    """Return the quarter by number of words that each caption is in, such as ``3 to 5 words``."""
    return _quarters(
        np.array([len(words_of(caption)) for caption in captions]),
        lambda low, high: f"{low} words" if low == high else f"{low} to {high} words",
    )


def age_labels(dates: Sequence[str]) -> list[str]:
    """Return the quarter by age that each date (ISO 8601, or a year) is in.

    No date has no label.
    """
    dated = [date for date in dates if date]
    if not dated:
        return [""] * len(dates)

    known = np.unique(dated)
    named = iter(
        _quarters(
            np.searchsorted(known, dated),
            lambda low, high: known[low] if low == high else f"{known[low]} to {known[high]}",
        )
    )
    return [next(named) if date else "" for date in dates]


def _quarters(values: Ints, name: Callable[[int, int], str]) -> list[str]:
    """Cut values into at most four parts of about equal size and name each by its ends.

    Equal values stay together.
    """
    cuts = np.unique(np.quantile(values, (0.25, 0.5, 0.75), method="inverted_cdf"))
    part = np.searchsorted(cuts, values)
    ends = {
        number: (values[part == number].min(), values[part == number].max())
        for number in np.unique(part)
    }
    return [name(*ends[number]) for number in part]


def _standardised_gaps(value_BN: Floats, member_SN: Floats) -> Floats:
    """Return each slice's mean less the rest's, [B, S].

    The unit is the standard error that a random slice of its size has.
    """
    products, size_S = value_BN.shape[1], member_SN.sum(axis=1)
    rest_S = products - size_S
    inside = value_BN @ member_SN.T
    gap = inside / size_S - (value_BN.sum(axis=1, keepdims=True) - inside) / np.maximum(rest_S, 1)

    spread = value_BN.std(axis=1, keepdims=True)
    error = spread * np.sqrt(products / (size_S * np.maximum(rest_S, 1)))
    return np.where((rest_S > 0) & (error > 0), gap / np.where(error > 0, error, 1.0), 0.0)
