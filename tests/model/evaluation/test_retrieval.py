"""Ranks against a slow float64 twin: a full matrix, loops, and the definition word for word."""

import json
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.evaluation import counting, retrieval, similarity
from model.evaluation.retrieval import (
    RANK_AT,
    evaluate_retrieval,
    ranks,
    relate,
    top_k,
)


def twin_ranks(query_QD: Tensor, candidate_CD: Tensor, edges: set[tuple[int, int]]) -> list[int]:
    similarity_QC = (query_QD.double().numpy() @ candidate_CD.double().numpy().T).astype(np.float32)
    found = []
    for query, row in enumerate(similarity_QC):
        right = {candidate for other, candidate in edges if other == query}
        best = max(row[candidate] for candidate in right)
        found.append(
            1
            + sum(row[candidate] >= best for candidate in range(len(row)) if candidate not in right)
        )
    return found


def embeddings(rows: int, seed: int, dimensions: int = 12) -> Tensor:
    random = torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(random, dim=1)


def planted(
    seed: int, queries: int = 23, candidates: int = 17
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings with many exact duplicates, and right answers, one to four each."""
    generator = np.random.default_rng(seed)
    text, image = embeddings(queries, seed), embeddings(candidates, seed + 1)
    image[generator.integers(0, candidates, 6)] = image[0].clone()
    text[generator.integers(0, queries, 6)] = text[1].clone()
    text[2:5] = image[2:5]
    edges = {(q, int(generator.integers(candidates))) for q in range(queries)}
    edges |= {(int(generator.integers(queries)), c) for c in range(candidates)}
    query, candidate = torch.tensor(sorted(edges)).unbind(1)
    return text, image, query, candidate


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of tiny products wait for each other's threads on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(counting, "TILE_COLUMNS", 5)
    monkeypatch.setattr(counting, "COUNTED_ROWS", 2)
    monkeypatch.setattr(similarity, "RECOMPUTED_AT_ONCE", 3)


@pytest.mark.parametrize(
    "dense_share", [1 / 64, 2.0], ids=["dense tiles recomputed whole", "pairs recomputed singly"]
)
@pytest.mark.parametrize("block_rows", [1, 4, 7, 23, 100])
def test_ranks_are_those_of_the_slow_twin(small_tiles, monkeypatch, block_rows, dense_share):
    monkeypatch.setattr(counting, "DENSE_SHARE", dense_share)
    for seed in range(10):
        text, image, query, candidate = planted(seed)
        edges = set(zip(query.tolist(), candidate.tolist(), strict=True))
        turned = {(c, q) for q, c in edges}
        assert ranks(text, image, query, candidate, block_rows).tolist() == twin_ranks(
            text, image, edges
        )
        assert ranks(image, text, candidate, query, block_rows).tolist() == twin_ranks(
            image, text, turned
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_block_size_never_changes_a_rank(seed, blocks):
    text, image, query, candidate = planted(seed)
    one, other = (ranks(text, image, query, candidate, block_rows) for block_rows in blocks)
    assert torch.equal(one, other)


def test_block_size_never_changes_a_rank_of_a_collapsed_model():
    text = torch.nn.functional.normalize(1 + 1e-4 * embeddings(301, 0, 256), dim=1)
    image = torch.nn.functional.normalize(1 + 1e-4 * embeddings(301, 1, 256), dim=1)
    right = torch.arange(301)
    expected = twin_ranks(text, image, {(i, i) for i in range(301)})
    for block_rows in (7, 64, 300):
        assert ranks(text, image, right, right, block_rows).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_pairs_changes_no_metric(seed):
    generator = np.random.default_rng(seed)
    captions = [str(word) for word in generator.integers(0, 12, 20)]
    images = [str(word) for word in generator.integers(0, 14, 20)]
    text, image = embeddings(12, seed), embeddings(14, seed + 1)
    text[3], image[4] = text[5], image[6]
    results = []
    for order in (np.arange(20), generator.permutation(20)):
        related = relate([captions[row] for row in order], [images[row] for row in order])
        text_Q = text[[int(captions[order[row]]) for row in related.caption_row]]
        image_C = image[[int(images[order[row]]) for row in related.image_row]]
        results.append(evaluate_retrieval(text_Q, image_C, related, 6).metrics())
    assert results[0] == pytest.approx(results[1], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rank_at_k_never_falls_as_k_grows(seed):
    text, image = embeddings(20, seed), embeddings(20, seed + 1)
    result = evaluate_retrieval(
        text, image, relate(list(map(str, range(20))), list(map(str, range(20)))), 8
    )
    for side in (result.text_to_image, result.image_to_text):
        assert side.rank_at[1] <= side.rank_at[5] <= side.rank_at[10]
        assert side.chance_at[1] <= side.chance_at[5] <= side.chance_at[10]


def test_perfect_embeddings_give_one():
    names = [str(i) for i in range(30)]
    both = embeddings(30, 0)
    result = evaluate_retrieval(both, both, relate(names, names), 7)
    assert result.mean_recall == 1
    assert result.text_to_image.median_rank == 1


def test_identical_embeddings_give_the_worst_case():
    related = relate(["a", "a", "b", "c"], ["1", "2", "3", "4"])
    result = evaluate_retrieval(torch.ones(3, 8), torch.ones(4, 8), related, 2)
    assert result.text_to_image.ranks.tolist() == [3, 4, 4]
    assert result.image_to_text.ranks.tolist() == [3, 3, 3, 3]
    assert result.text_to_image.rank_at == {1: 0.0, 5: 1.0, 10: 1.0}


def test_a_tie_counts_against_the_right_answer():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert ranks(image[:1], image, torch.tensor([0]), torch.tensor([0]), 4).tolist() == [2]


def test_another_right_answer_is_not_ahead():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert ranks(image[:1], image, torch.tensor([0, 0]), torch.tensor([0, 1]), 4).tolist() == [1]
    assert ranks(image[:1], image, torch.tensor([0, 0]), torch.tensor([0, 2]), 4).tolist() == [2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_nan_or_infinity_is_refused(value):
    good, right = embeddings(4, 0), torch.arange(4)
    bad = good.clone()
    bad[2, 3] = value
    with pytest.raises(
        ValueError, match="1 query embeddings are NaN or infinite, the first in row 2"
    ):
        ranks(bad, good, right, right, 2)
    with pytest.raises(ValueError, match="1 candidate embeddings are NaN"):
        top_k(good, bad, 2, 2)


def test_a_query_without_right_answer_is_refused():
    with pytest.raises(ValueError, match="query 1 has no right answer"):
        ranks(embeddings(2, 0), embeddings(2, 1), torch.tensor([0]), torch.tensor([1]), 2)


def test_embeddings_of_all_pairs_in_place_of_distinct_ones_are_refused():
    with pytest.raises(
        ValueError, match="3 text and 3 image embeddings for 2 captions and 3 images"
    ):
        evaluate_retrieval(
            embeddings(3, 0), embeddings(3, 1), relate(["a", "b", "a"], ["1", "2", "3"]), 2
        )


@pytest.mark.parametrize(("rows", "dimensions", "block_rows"), [(0, 4, 2), (3, 5, 2), (3, 4, 0)])
def test_shapes_that_do_not_fit_are_refused(rows, dimensions, block_rows):
    with pytest.raises(ValueError, match=r"do not fit|need one each"):
        top_k(torch.zeros(rows, dimensions), torch.zeros(3, 4), 2, block_rows)


def test_autocast_and_lowered_precision_change_no_rank():
    text, image = embeddings(64, 0, 96), embeddings(64, 1, 96)
    right = torch.arange(64)
    before = ranks(text, image, right, right, 16)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ranks(text, image, right, right, 16), before)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_identical_captions_and_images_become_one():
    related = relate(["red", "blue", "red", "red"], ["1", "2", "2", "1"])
    assert related.caption_row.tolist() == [0, 1]
    assert related.image_row.tolist() == [0, 1]
    assert list(zip(related.query.tolist(), related.candidate.tolist(), strict=True)) == [
        (0, 0),
        (1, 1),
        (0, 1),
    ]


def test_captions_and_images_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        relate(["a"], ["1", "2"])


def test_a_group_holds_all_that_any_edge_connects():
    caption_group, image_group = relate(list("cabbad"), list("365624")).groups()
    assert caption_group.tolist() == [0, 1, 1, 3]  # c, a, b, d
    assert image_group.tolist() == [0, 1, 1, 1, 3]
    chain = relate([str(i // 2) for i in range(999)], [str((i + 1) // 2) for i in range(999)])
    assert set(chain.groups()[0].tolist()) == {0} == set(chain.groups()[1].tolist())


@pytest.mark.parametrize(
    ("candidates", "right"), [(40, (1,)), (40, (3, 1, 35)), (6, (1, 2)), (3, (3,))]
)
def test_chance_is_the_hypergeometric_one(candidates, right):
    for k in RANK_AT:
        drawn = min(k, candidates)
        expected = np.mean(
            [1 - comb(candidates - p, drawn) / comb(candidates, drawn) for p in right]
        )
        assert retrieval.chance(np.array(right), candidates, k) == pytest.approx(expected)


def test_a_result_is_written_to_json_without_its_ranks():
    text, image, query, candidate = planted(3)
    related = retrieval.RelevantPairs(torch.arange(23), torch.arange(17), query, candidate)
    result = evaluate_retrieval(text, image, related, 8)
    written = json.loads(json.dumps(result.to_json()))
    assert written["mean_recall"] == result.mean_recall
    side = written["text_to_image"]
    assert [side[f"rank_at_{k}"] for k in RANK_AT] == list(result.text_to_image.rank_at.values())
    assert side["queries"] == len(result.text_to_image.ranks) == 23
    assert not {"ranks", "group", "tied"} & side.keys()


def test_metric_names_are_flat():
    result = evaluate_retrieval(
        embeddings(4, 0), embeddings(4, 0), relate(list("abcd"), list("1234")), 2
    )
    sides = [
        f"{a}_{b}"
        for a in retrieval.DIRECTIONS
        for b in ("rank_at_1", "rank_at_5", "rank_at_10", "median_rank")
    ]
    chances = [f"{a}_chance_at_{k}" for a in retrieval.DIRECTIONS for k in RANK_AT]
    assert sorted(result.metrics()) == sorted(["mean_recall", *sides, *chances])
    assert result.metrics()["image_to_text_chance_at_1"] == 0.25


@pytest.mark.parametrize("block_rows", [1, 5, 50])
def test_top_k_puts_the_lower_index_first_on_ties(block_rows):
    text, image, _, _ = planted(5)
    text[0], image[1] = 0, -image[0]  # all similarities of query 0 are 0.0 or -0.0
    similarity_QC = (text.double() @ image.double().T).float().numpy()
    similarity, index = top_k(text, image, 6, block_rows)
    for row, values in enumerate(similarity_QC):
        expected = sorted(range(17), key=lambda candidate: (-values[candidate], candidate))[:6]
        assert index[row].tolist() == expected
        assert similarity[row].tolist() == values[expected].tolist()


def test_top_k_of_fewer_candidates_returns_them_all():
    similarity, index = top_k(embeddings(2, 0), embeddings(3, 1), 5, 2)
    assert similarity.shape == index.shape == (2, 3)
