"""Product-level right answers and drawn candidates, against slow twins by the definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation.protocols import (
    WRONG,
    CandidateSets,
    draw_candidates,
    evaluate_candidates,
    relate_products,
)
from model.evaluation.retrieval import evaluate_retrieval, relate
from tests.model.evaluation.test_retrieval import embeddings, planted, twin_ranks

CAPTIONS = [
    "red shirt",
    "red shirt",
    "blue shoe",
    "blue shoe from the left",
    "green bag",
    "green bag",
]
IMAGES = ["1", "2", "3", "4", "5", "5"]
PRODUCTS = ["p", "q", "r", "r", "s", "t"]


def catalogue(seed: int, pairs: int = 60) -> tuple[list[str], list[str], list[str], list[str]]:
    """Captions, images, products and subcategories of random pairs, repeats among them."""
    rng = np.random.default_rng(seed)
    captions = [f"caption {n}" for n in rng.integers(0, 40, pairs)]
    images = [f"image {n}" for n in rng.integers(0, 50, pairs)]
    return (
        captions,
        images,
        [f"p{n}" for n in rng.integers(0, 30, pairs)],
        [f"s{n}" for n in rng.integers(0, 3, pairs)],
    )


def test_any_image_of_a_product_is_right_at_the_level_of_products() -> None:
    pairs, products = relate(CAPTIONS, IMAGES), relate_products(CAPTIONS, IMAGES, PRODUCTS)
    assert torch.equal(pairs.caption_row, products.caption_row) and torch.equal(
        pairs.image_row, products.image_row
    )
    edges = list(zip(products.query.tolist(), products.candidate.tolist(), strict=True))
    # The title of two products has the pictures of both, each view of the shoe has both views.
    assert edges == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 4)]
    assert set(zip(pairs.query.tolist(), pairs.candidate.tolist(), strict=True)) < set(edges)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_product_level_relations_are_those_of_the_slow_twin(seed: int) -> None:
    captions, images, products, _ = catalogue(seed)
    related = relate_products(captions, images, products)
    expected = {
        (c, i)
        for c, caption_row in enumerate(related.caption_row.tolist())
        for i, image_row in enumerate(related.image_row.tolist())
        if {p for q, p in zip(captions, products, strict=True) if q == captions[caption_row]}
        & {p for q, p in zip(images, products, strict=True) if q == images[image_row]}
    }
    assert set(zip(related.query.tolist(), related.candidate.tolist(), strict=True)) == expected


def drawn(seed: int, pairs: int = 60) -> tuple[CandidateSets, list, list, object, object]:
    captions, images, products, subcategories = catalogue(seed, pairs)
    level, related = relate_products(captions, images, products), relate(captions, images)
    labels = [
        [subcategories[row] for row in rows.tolist()]
        for rows in (related.caption_row, related.image_row)
    ]
    return draw_candidates(related, level, *labels, seed=seed), *labels, related, level


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_wrong_candidates_are_distinct_of_the_subcategory_and_of_other_products(seed: int) -> None:
    sets, caption_label, image_label, related, level = drawn(seed)
    sides = (
        (
            sets.text_to_image,
            caption_label,
            image_label,
            related.query,
            related.candidate,
            level.query,
            level.candidate,
        ),
        (
            sets.image_to_text,
            image_label,
            caption_label,
            related.candidate,
            related.query,
            level.candidate,
            level.query,
        ),
    )
    for candidates, own, theirs, query, right, product_query, product_right in sides:
        assert candidates.shape == (len(own), 1 + WRONG)
        for number, row in enumerate(candidates.tolist()):
            first, *wrong = [candidate for candidate in row if candidate >= 0]
            same_product = set(product_right[product_query == number].tolist())
            assert first in right[query == number].tolist()
            # So small a subcategory gives all that it has.
            assert wrong == [
                c
                for c, label in enumerate(theirs)
                if label == own[number] and c not in same_product
            ]


def test_a_large_subcategory_gives_a_hundred_others_the_same_for_the_same_seed() -> None:
    names = [str(number) for number in range(400)]
    related, labels = relate(names, names), ["shirt"] * 300 + ["shoe"] * 100
    one, again, other = (
        draw_candidates(related, related, labels, labels, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.text_to_image, again.text_to_image)
    assert not np.array_equal(one.text_to_image, other.text_to_image)
    assert not np.array_equal(one.text_to_image, one.image_to_text)
    assert (one.text_to_image[:300] >= 0).all() and one.text_to_image[:300].max() < 300
    assert ((one.text_to_image[300:] >= 0).sum(axis=1) == 100).all()  # 99 others
    # Each of the 299 others of a shirt comes about equally often.
    counts = np.bincount(one.text_to_image[:300, 1:].ravel(), minlength=300)
    assert counts.min() > 60 and counts.max() < 145


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_ranks_among_candidates_are_those_of_the_slow_twin_planted_ties_included(seed: int) -> None:
    text, image, *_ = planted(seed)
    rng = np.random.default_rng(seed)
    sets = CandidateSets(
        *(_some_candidates(rng, rows, others) for rows, others in ((23, 17), (17, 23)))
    )
    groups = (np.arange(23), np.arange(17))
    result = evaluate_candidates(text, image, sets, groups)
    for side, ours, theirs, drawn_QK in (
        (result.text_to_image, text, image, sets.text_to_image),
        (result.image_to_text, image, text, sets.image_to_text),
    ):
        similarity = (ours.double().numpy() @ theirs.double().numpy().T).astype(np.float32)
        for row, (first, *wrong) in enumerate(drawn_QK.tolist()):
            values = [similarity[row, other] for other in wrong if other >= 0]
            assert side.ranks[row] == 1 + sum(value >= similarity[row, first] for value in values)
            assert side.tied[row] == sum(value == similarity[row, first] for value in values)
        assert side.chance_at[1] == pytest.approx(np.mean(1 / (drawn_QK >= 0).sum(axis=1)))
        assert side.chance_at[10] == pytest.approx(
            np.mean(np.minimum(1, 10 / (drawn_QK >= 0).sum(axis=1)))
        )


def _some_candidates(rng: np.random.Generator, rows: int, others: int) -> np.ndarray:
    candidates = np.full((rows, 13), -1)
    for row in range(rows):
        number = rng.integers(1, 13)
        candidates[row, :number] = rng.choice(others, number, replace=False)
    return candidates


def test_all_others_as_candidates_give_the_full_protocol() -> None:
    text, image = embeddings(40, 0), embeddings(40, 1)
    names = [str(number) for number in range(40)]
    related = relate(names, names)
    sets = draw_candidates(related, related, [""] * 40, [""] * 40, seed=0)
    full = evaluate_retrieval(text, image, related, 16)
    assert evaluate_candidates(text, image, sets, (np.arange(40), np.arange(40))) == full


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_ties_are_counted_as_the_slow_twin_counts_them(seed: int) -> None:
    text, image, query, candidate = planted(seed)
    related = relate([str(n) for n in range(23)], [str(n % 17) for n in range(23)])
    edges = set(zip(query.tolist(), candidate.tolist(), strict=True))
    result = evaluate_retrieval(text, image, replace(related, query=query, candidate=candidate), 5)
    for side, ours, theirs, pairs in (
        (result.text_to_image, text, image, edges),
        (result.image_to_text, image, text, {(c, q) for q, c in edges}),
    ):
        assert side.ranks.tolist() == twin_ranks(ours, theirs, pairs)
        similarity = (ours.double().numpy() @ theirs.double().numpy().T).astype(np.float32)
        for row in range(len(ours)):
            right = {other for q, other in pairs if q == row}
            best = max(similarity[row, other] for other in right)
            ahead = sum(
                similarity[row, other] > best for other in range(len(theirs)) if other not in right
            )
            assert side.ranks[row] - side.tied[row] == 1 + ahead
