"""Queries of labels and fields: right answers, and scores against a slow float64 twin."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation.queries import (
    KeywordQueries,
    caption_queries,
    expected_scores,
    field_queries,
    label_queries,
    product_embeddings,
    score_queries,
)
from model.evaluation.retrieval import relate
from tests.model.evaluation.test_retrieval import embeddings, planted

FIELDS = {
    "gender": ["Men", "Men", "Women", ""],
    "colour": ["Navy Blue", "Navy Blue", "Red", "Red"],
    "article_type": ["Casual Shirt", "Casual Shirt", "Casual Shirt", ""],
}


def answers(queries: KeywordQueries) -> dict[str, list[int]]:
    return {
        text: queries.candidate[queries.query == number].tolist()
        for number, text in enumerate(queries.texts)
    }


def test_a_label_s_right_answers_are_the_images_that_have_it_whatever_its_case() -> None:
    assert answers(label_queries(["Shoes", "Bags", "shoes", ""])) == {"bags": [1], "shoes": [0, 2]}
    assert label_queries(["", ""]).texts == ()


def test_field_queries_say_the_noun_last_and_all_products_with_these_fields_are_right() -> None:
    queries = answers(field_queries(FIELDS, ["gender", "colour", "article_type"]))
    allowed = {
        "men casual shirt": [0, 1],
        "navy blue casual shirt": [0, 1],
        "men navy blue casual shirt": [0, 1],
        "women casual shirt": [2],
        "red casual shirt": [2],
        "women red casual shirt": [2],
    }
    assert queries and all(allowed[text] == right for text, right in queries.items())
    # The last product has one field alone, which is no query.
    assert "red" not in queries


def test_field_queries_are_the_same_every_time_distinct_and_at_most_so_many() -> None:
    rng = np.random.default_rng(0)
    fields = {
        name: [f"{name}{n}" for n in rng.integers(0, 4, 200)] for name in ("colour", "fit", "thing")
    }
    one, again = (field_queries(fields, ["colour", "fit", "thing"]) for _ in range(2))
    assert one.texts == again.texts and torch.equal(one.candidate, again.candidate)
    assert len(set(one.texts)) == len(one.texts) > 40
    assert {len(text.split()) for text in one.texts} == {2, 3}
    assert len(field_queries(fields, ["colour", "fit", "thing"], most=5).texts) <= 5
    for text, right in answers(one).items():
        said = text.split()
        expected = [
            i for i in range(200) if all(word in (fields[c][i] for c in fields) for word in said)
        ]
        assert right == expected


def test_without_two_of_the_columns_there_are_no_field_queries() -> None:
    assert field_queries({"colour": ["red"]}, ["colour", "thing"]).texts == ()
    assert field_queries({}, ["colour", "thing"]).texts == ()


def slow_scores(similarity: np.ndarray, right: list[set[int]]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for row, wanted in zip(similarity, right, strict=True):
        # Of equals the wrong one stands first.
        order = sorted(range(len(row)), key=lambda c: (-row[c], c in wanted, c))
        hit = [candidate in wanted for candidate in order]
        first = 1 + min(place for place, is_hit in enumerate(hit) if is_hit)
        gain = sum(1 / np.log2(place + 2) for place, is_hit in enumerate(hit[:10]) if is_hit)
        ideal = sum(1 / np.log2(place + 2) for place in range(min(10, len(wanted))))
        for name, value in {
            "precision_at_1": hit[0],
            "precision_at_10": sum(hit[:10]) / 10,
            "recall_at_1": hit[0] / len(wanted),
            "recall_at_10": sum(hit[:10]) / len(wanted),
            "ndcg_at_10": gain / ideal,
            "mrr": 1 / first,
            "mrr_at_10": 1 / first if first <= 10 else 0,
        }.items():
            scores.setdefault(name, []).append(float(value))
    return scores


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), block_rows=st.integers(1, 30))
def test_scores_are_those_of_the_slow_twin_planted_ties_included(
    seed: int, block_rows: int
) -> None:
    text, image, query, candidate = planted(seed)
    queries = KeywordQueries(tuple(map(str, range(23))), query, candidate)
    similarity = (text.double().numpy() @ image.double().numpy().T).astype(np.float32)
    right = [set(candidate[query == number].tolist()) for number in range(23)]
    scores = score_queries(queries, text, image, block_rows)
    expected = slow_scores(similarity, right)
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        assert scores[name].tolist() == pytest.approx(values), name


def test_perfect_embeddings_score_one_and_ten_answers_are_fewer_than_all() -> None:
    image = torch.eye(3).repeat_interleave(12, dim=0)
    queries = label_queries([label for label in "abc" for _ in range(12)])
    scores = {
        name: values.mean()
        for name, values in score_queries(queries, torch.eye(3), image, 8).items()
    }
    ones = {"precision_at_1", "precision_at_10", "ndcg_at_10", "mrr", "mrr_at_10"}
    assert {name for name, value in scores.items() if value == 1} == ones
    assert scores["recall_at_10"] == pytest.approx(10 / 12)
    assert expected_scores(queries, 36)["precision_at_10"] == pytest.approx(1 / 3)


def test_expected_scores_are_those_of_many_random_orders() -> None:
    queries = label_queries(["a"] * 2 + ["b"] * 9 + [""] * 7)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(3000):
        images = torch.from_numpy(rng.normal(size=(18, 4))).float()
        texts = torch.from_numpy(rng.normal(size=(2, 4))).float()
        scores = score_queries(queries, texts, images, 8)
        drawn.append({name: values.mean() for name, values in scores.items()})
    expected = expected_scores(queries, 18)
    for name, value in expected.items():
        assert value == pytest.approx(np.mean([each[name] for each in drawn]), abs=0.02), name


def test_captions_are_queries_with_all_their_images() -> None:
    captions = ["red", "blue", "red", "green"]
    related = relate(captions, ["1", "2", "3", "4"])
    assert answers(caption_queries(["red", "blue", "green"], related)) == {
        "red": [0, 2],
        "blue": [1],
        "green": [3],
    }
    assert answers(caption_queries(["red", "blue", "green"], related, most=2)) == {
        "red": [0, 2],
        "green": [3],
    }


def test_a_product_is_nine_parts_image_and_one_part_caption() -> None:
    text, image = embeddings(3, 0), embeddings(3, 1)
    mixed = product_embeddings(text, image, torch.tensor([2, 0, 1]))
    expected = 0.9 * image[0] + 0.1 * text[2]
    assert torch.allclose(mixed[0], expected / expected.norm())
