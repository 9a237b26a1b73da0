"""Pairs held out so that nothing of them is trained on: whole groups that share captions, images,
products.

Groups are found by passing the least row number on through every shared key until nothing changes:
some ten passes, 0.3 s each over two million pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.pairs.arrays import Rows


def group_rows(keys: Sequence[npt.NDArray[Any]]) -> Rows:
    """Return the group of each row, int64 [N], named by its first row.

    Rows with an equal value in any key are of one group, and so are rows linked through others.
    ``keys`` are at least one array of N values.
    """
    shared = [np.unique(key, return_inverse=True)[1] for key in keys]
    group = np.arange(len(keys[0]))
    while True:
        before = group
        for value in shared:
            # All rows of a value take the least group that one of them has.
            least = np.full(len(group), len(group))
            np.minimum.at(least, value, group)
            group = least[value]

        # A row's first row may have learned of a still earlier one.
        group = group[group]
        if np.array_equal(group, before):
            return group


def hold_out(group: Rows, is_trained: npt.NDArray[np.bool_], wanted: int, seed: int) -> Rows:
    """Return at most ``wanted`` rows, ascending: whole groups without a row that is trained on.

    Groups are drawn from the seed; one that is larger than what is still wanted is passed over.
    """
    names, number, sizes = np.unique(group, return_inverse=True, return_counts=True)
    is_free = np.bincount(number, weights=is_trained, minlength=len(names)) == 0

    is_held = np.zeros(len(names), dtype=np.bool_)
    for each in np.random.default_rng(seed).permutation(np.flatnonzero(is_free)):
        if wanted <= 0:
            break
        if sizes[each] <= wanted:
            is_held[each] = True
            wanted -= int(sizes[each])
    return np.flatnonzero(is_held[number])
