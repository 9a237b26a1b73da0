"""The losses against slow, obvious twins in float64: values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from model.training.losses import (
    MAX_LOG_SCALE,
    concept_matching,
    find_duplicates,
    info_nce,
    sigmoid_matching,
)

SIZES = [(2, 3), (5, 4), (13, 7), (1, 2)]


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    return normalize(
        torch.randn(
            rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ),
        dim=1,
    )


def targets(rows: int, concepts: int, seed: int, named: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(rows, concepts, generator=generator, dtype=torch.float64)
    weights[torch.rand(rows, generator=generator) > named] = 0
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def slow_cross_entropy(logits: list[Tensor], target: list[float]) -> Tensor:
    total = sum((logit.exp() for logit in logits), torch.zeros((), dtype=torch.float64))
    return sum(
        (
            -weight * (logit.exp() / total).log()
            for logit, weight in zip(logits, target, strict=True)
        ),
        torch.zeros((), dtype=torch.float64),
    )


def slow_info_nce(
    image: Tensor, text: Tensor, scale: Tensor, ids: list[tuple[int, int]] | None = None
) -> Tensor:
    pairs, total = len(image), torch.zeros((), dtype=torch.float64)
    for row in range(pairs):
        others = [
            other
            for other in range(pairs)
            if other == row
            or ids is None
            or not (ids[row][0] == ids[other][0] or ids[row][1] == ids[other][1])
        ]
        one_hot = [float(other == row) for other in others]
        total = total + slow_cross_entropy(
            [scale * image[row].dot(text[other]) for other in others], one_hot
        )
        total = total + slow_cross_entropy(
            [scale * text[row].dot(image[other]) for other in others], one_hot
        )
    return total / (2 * pairs)


def slow_concept_matching(
    image: Tensor,
    text: Tensor,
    image_mean: Tensor,
    text_mean: Tensor,
    prototypes: Tensor,
    target: Tensor,
    scale: Tensor,
) -> Tensor:
    total, named = torch.zeros((), dtype=torch.float64), 0
    for row in range(len(image)):
        if not float(target[row].sum()):
            continue
        named += 1
        for embedding, mean in ((image[row], image_mean), (text[row], text_mean)):
            logits = [scale * (embedding - mean).dot(prototype) for prototype in prototypes]
            total = total + slow_cross_entropy(logits, target[row].tolist()) / 2
    return total / max(named, 1)


def leaf(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.detach().to(dtype, copy=True).requires_grad_()


def assert_same(
    fast: Tensor, slow: Tensor, fast_leaves: list[Tensor], slow_leaves: list[Tensor]
) -> None:
    """Compare value and gradients; a float32 sum of so few terms is good to five digits."""
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-6)
    fast_gradients = torch.autograd.grad(fast, fast_leaves)
    slow_gradients = torch.autograd.grad(slow, slow_leaves)
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pairs", "width"), SIZES)
@pytest.mark.parametrize("log_scale", [0.0, 2.66, MAX_LOG_SCALE])
def test_info_nce_and_its_gradients_equal_the_slow_twin(
    pairs: int, width: int, log_scale: float
) -> None:
    leaves = [
        unit_rows(pairs, width, 1),
        unit_rows(pairs, width, 2),
        torch.tensor(log_scale, dtype=torch.float64),
    ]
    fast, slow = [leaf(x, torch.float32) for x in leaves], [leaf(x, torch.float64) for x in leaves]
    assert_same(
        info_nce(fast[0], fast[1], fast[2].exp()),
        slow_info_nce(slow[0], slow[1], slow[2].exp()),
        fast,
        slow,
    )


# What repeats: nothing; a caption; an image; both and a whole pair; everything.
IDS = [
    [(1, 11), (2, 12), (3, 13), (4, 14), (5, 15), (6, 16)],
    [(1, 11), (2, 12), (1, 13), (4, 14), (5, 15), (1, 16)],
    [(1, 11), (2, 12), (3, 13), (4, 12), (5, 15), (6, 16)],
    [(1, 11), (2, 12), (3, 12), (1, 14), (2, 12), (6, 11)],
    [(7, 11), (7, 12), (7, 13), (7, 14), (7, 15), (7, 16)],
]


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_info_nce_without_duplicates_equals_the_slow_twin_whole_and_as_the_mean_of_parts(
    ids: list[tuple[int, int]], ranks: int
) -> None:
    leaves = [unit_rows(6, 5, 1), unit_rows(6, 5, 2), torch.tensor(2.0, dtype=torch.float64)]
    fast, slow = [leaf(x, torch.float32) for x in leaves], [leaf(x, torch.float64) for x in leaves]
    numbers, share, losses = torch.tensor(ids), 6 // ranks, []
    for first in range(0, 6, share):
        part = slice(first, first + share)
        duplicates = find_duplicates(numbers[part], numbers, first)
        losses.append(
            info_nce(
                fast[0][part], fast[1][part], fast[2].exp(), fast[0], fast[1], duplicates, first
            )
        )
    loss = torch.stack(losses).mean()
    assert_same(loss, slow_info_nce(slow[0], slow[1], slow[2].exp(), ids), fast, slow)


def slow_sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ids: list[tuple[int, int]]
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(image)):
        for other in range(len(text)):
            logit = scale * image[row].dot(text[other]) + bias
            if row == other:
                total = total - (1 / (1 + (-logit).exp())).log()
            elif ids[row][0] != ids[other][0] and ids[row][1] != ids[other][1]:
                total = total - (1 / (1 + logit.exp())).log()
    return total / len(image)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_sigmoid_loss_equals_the_slow_twin_whole_and_as_the_mean_of_parts(
    ids: list[tuple[int, int]], ranks: int
) -> None:
    scale, bias = torch.tensor(2.3, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    leaves = [unit_rows(6, 5, 1), unit_rows(6, 5, 2), scale, bias]
    fast, slow = [leaf(x, torch.float32) for x in leaves], [leaf(x, torch.float64) for x in leaves]
    numbers, share, losses = torch.tensor(ids), 6 // ranks, []
    for first in range(0, 6, share):
        part = slice(first, first + share)
        duplicates = find_duplicates(numbers[part], numbers, first)
        image, text = fast[0][part], fast[1][part]
        losses.append(
            sigmoid_matching(image, text, fast[2].exp(), fast[3], fast[1], duplicates, first)
        )
    loss = torch.stack(losses).mean()
    assert_same(loss, slow_sigmoid(slow[0], slow[1], slow[2].exp(), slow[3], ids), fast, slow)


def test_the_sigmoid_loss_is_open_clips() -> None:
    from open_clip.loss import SigLipLoss

    image, text = unit_rows(7, 5, 1), unit_rows(7, 5, 2)
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    torch.testing.assert_close(
        sigmoid_matching(image, text, scale, bias), SigLipLoss()(image, text, scale, bias)
    )


def test_duplicates_share_a_caption_or_an_image_and_nobody_is_a_duplicate_of_himself() -> None:
    found = find_duplicates(torch.tensor(IDS[3]), torch.tensor(IDS[3]))
    pairs = {(row, other) for row, other in found.nonzero().tolist() if row < other}
    assert pairs == {(0, 3), (0, 5), (1, 2), (1, 4), (2, 4)} and torch.equal(found, found.T)
    assert torch.equal(
        find_duplicates(torch.tensor(IDS[3][4:]), torch.tensor(IDS[3]), 4), found[4:]
    )


def test_a_batch_of_one_caption_alone_has_nothing_to_tell_apart() -> None:
    image, text = unit_rows(6, 5, 1).requires_grad_(), unit_rows(6, 5, 2)
    numbers = torch.tensor(IDS[4])
    loss = info_nce(
        image, text, torch.tensor(9.0), is_duplicate_LB=find_duplicates(numbers, numbers)
    )
    loss.backward()
    assert float(loss.detach()) == 0 and image.grad is not None and not bool(image.grad.any())


def test_info_nce_of_a_batch_without_information_is_the_logarithm_of_its_size() -> None:
    same = torch.ones(8, 4) / 2
    assert float(info_nce(same, same, torch.tensor(100.0))) == pytest.approx(math.log(8))


def test_a_learned_scale_grows_when_pairs_match_and_shrinks_when_they_do_not() -> None:
    right = torch.eye(4)
    for text, sign in ((right, -1), (right.roll(1, 0), 1)):
        scale = torch.tensor(2.0, requires_grad=True)
        info_nce(right, text, scale).backward()
        assert scale.grad is not None and float(scale.grad.sign()) == sign


@given(st.integers(2, 12), st.integers(0, 10_000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_pairs_changes_neither_loss(pairs: int, seed: int, random: object) -> None:
    image, text, target = (
        unit_rows(pairs, 6, seed),
        unit_rows(pairs, 6, seed + 1),
        targets(pairs, 5, seed),
    )
    prototypes, means = unit_rows(5, 6, seed + 2), unit_rows(2, 6, seed + 3) / 3
    order = list(range(pairs))
    random.shuffle(order)  # type: ignore[attr-defined]
    scale = torch.tensor(9.0, dtype=torch.float64)
    plain = info_nce(image, text, scale)
    torch.testing.assert_close(info_nce(image[order], text[order], scale), plain)
    torch.testing.assert_close(info_nce(text, image, scale), plain)
    concept = concept_matching(image, text, *means, prototypes, target, scale)
    shuffled = concept_matching(image[order], text[order], *means, prototypes, target[order], scale)
    torch.testing.assert_close(shuffled, concept)


@pytest.mark.parametrize(("pairs", "width"), SIZES)
@pytest.mark.parametrize("concepts", [1, 3, 11])
def test_concept_matching_and_its_gradients_equal_the_slow_twin(
    pairs: int, width: int, concepts: int
) -> None:
    target = targets(pairs, concepts, 7)
    target[0] = torch.full((concepts,), 1 / concepts)
    prototypes, means = unit_rows(concepts, width, 3), unit_rows(2, width, 4) / 4
    leaves = [
        unit_rows(pairs, width, 1),
        unit_rows(pairs, width, 2),
        torch.tensor(10.0, dtype=torch.float64),
    ]
    fast, slow = [leaf(x, torch.float32) for x in leaves], [leaf(x, torch.float64) for x in leaves]
    assert_same(
        concept_matching(
            fast[0], fast[1], *means.float(), prototypes.float(), target.float(), fast[2]
        ),
        slow_concept_matching(slow[0], slow[1], means[0], means[1], prototypes, target, slow[2]),
        fast,
        slow,
    )


def test_a_caption_that_names_no_concept_neither_counts_nor_moves() -> None:
    image, text = unit_rows(4, 6, 1).requires_grad_(), unit_rows(4, 6, 2).requires_grad_()
    prototypes, means, target = (
        unit_rows(3, 6, 3),
        torch.zeros(2, 6, dtype=torch.float64),
        targets(4, 3, 5, named=2),
    )
    target[2] = 0
    rest = [0, 1, 3]
    scale = torch.tensor(10.0, dtype=torch.float64)
    loss = concept_matching(image, text, *means, prototypes, target, scale)
    alone = concept_matching(image[rest], text[rest], *means, prototypes, target[rest], scale)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    for embedding in (image, text):
        assert embedding.grad is not None
        assert bool((embedding.grad[2] == 0).all()) and bool((embedding.grad[rest] != 0).any())


@pytest.mark.parametrize("concepts", [0, 3])
def test_a_batch_that_names_no_concept_costs_nothing_and_moves_nothing(concepts: int) -> None:
    image, text = unit_rows(4, 6, 1).requires_grad_(), unit_rows(4, 6, 2).requires_grad_()
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    mean, prototypes = torch.zeros(6, dtype=torch.float64), unit_rows(concepts, 6, 3)
    loss = concept_matching(image, text, mean, mean, prototypes, torch.zeros(4, concepts), scale)
    assert float(loss.detach()) == 0
    for gradient in torch.autograd.grad(loss, [image, text, scale], allow_unused=True):
        assert gradient is None or not bool(gradient.any())


def test_the_loss_is_least_when_embeddings_are_the_prototypes_of_what_they_name() -> None:
    prototypes, target, mean = torch.eye(3), torch.eye(3), torch.zeros(3)
    scale = torch.tensor(10.0)
    right = concept_matching(prototypes, prototypes, mean, mean, prototypes, target, scale)
    wrong = concept_matching(
        prototypes.roll(1, 0), prototypes, mean, mean, prototypes, target, scale
    )
    assert float(right) < 0.001 < 4 < float(wrong)
