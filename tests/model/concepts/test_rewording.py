"""Keyword queries say what a shopper would type, and nothing that the caption does not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batches.loading import Batch, Crop, PairInput, load_batch, pair_input
from model.concepts.mining import Phrases, Vocabulary
from model.concepts.rewording import (
    Rewording,
    choose_concepts,
    keyword_query,
)
from model.evaluation.queries import KeywordQueries, keyword_queries
from model.evaluation.retrieval import relate
from model.pairs.index import index_pairs
from model.towers.towers import Towers
from model.training.loop import Callbacks, Stage, train
from tests.tiny import (
    COLOURS,
    SIDE,
    THINGS,
    TinyData,
    drawn_jpeg,
    profiled,
    tiny_stage_config,
)

PHRASES = Phrases(("red", "blue", "floral", "maxi dress", "dress", "cotton", "连衣裙", "红色"))
TINY = Phrases((*COLOURS, *THINGS))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_query_names_concepts_in_the_caption_s_order() -> None:
    concepts = PHRASES.find("Red maxi-dresses in cotton, floral; 红色连衣裙")
    assert [PHRASES.phrases[number] for number in concepts] == [
        "red",
        "maxi dress",
        "cotton",
        "floral",
        "红色",
        "连衣裙",
    ]
    said = {keyword_query(concepts, PHRASES, generator(seed)) for seed in range(200)}
    assert {
        "red maxi dress cotton floral",
        "red 连衣裙",
        "maxi dress floral",
        "cotton 红色 连衣裙",
    } <= said
    assert keyword_query(PHRASES.find("a red thing"), PHRASES, generator()) is None
    assert keyword_query(PHRASES.find("red dress"), PHRASES, generator()) == "red dress"


@given(st.lists(st.integers(0, 99), unique=True, max_size=10), st.integers(0, 2**63 - 1))
def test_a_choice_is_two_to_four_concepts_in_order_the_same_for_a_seed(
    concepts: list[int], seed: int
) -> None:
    chosen = choose_concepts(concepts, generator(seed))
    assert chosen == choose_concepts(concepts, generator(seed))
    assert len(chosen) in ((2, 3, 4) if len(concepts) >= 2 else (0,)) and len(chosen) <= len(
        concepts
    )
    assert chosen == [concept for concept in concepts if concept in set(chosen)]


def test_each_length_and_each_concept_is_as_likely() -> None:
    draws = [choose_concepts(range(6), generator(seed)) for seed in range(3000)]
    lengths = np.bincount([len(draw) for draw in draws], minlength=5)[2:]
    assert (abs(lengths - 1000) < 110).all()
    assert (abs(np.bincount(np.concatenate(draws)) - 1500) < 110).all()


@pytest.fixture
def pairs(towers: Towers, tiny_data: TinyData) -> PairInput:
    return pair_input(towers.input_spec, tiny_data.train_index())


def batch_of(pairs: PairInput, rows: list[int]) -> Batch:
    return load_batch(pairs, np.array(rows), Crop(SIDE))


def made(pairs: PairInput, towers: Towers, share: float, seed: int = 5) -> Rewording:
    return Rewording(pairs.index, towers.tokenizer, TINY, share, seed)


def test_without_a_share_nothing_is_reworded(pairs: PairInput, towers: Towers) -> None:
    plain = batch_of(pairs, list(range(64)))
    assert made(pairs, towers, 0.0)(plain, 0) is plain


def test_words_depend_on_seed_epoch_and_row_alone(pairs: PairInput, towers: Towers) -> None:
    reword = made(pairs, towers, 0.5)
    rows = list(range(64))
    whole, backwards = (reword(batch_of(pairs, order), 3) for order in (rows, rows[::-1]))
    assert torch.equal(whole.tokens, backwards.tokens.flip(0)) and torch.equal(
        whole.ids, backwards.ids.flip(0)
    )
    said = [reword.caption(row, 3) for row in rows]
    assert said != [reword.caption(row, 4) for row in rows]
    words = [text or pairs.index.caption(row) for row, text in zip(rows, said, strict=True)]
    assert torch.equal(whole.tokens, towers.tokenizer(words))
    other = made(pairs, towers, 0.5, seed=6)
    assert said != [other.caption(row, 3) for row in rows]


def test_the_share_of_captions_becomes_queries_and_the_rest_stay_to_the_bit(
    pairs: PairInput, towers: Towers
) -> None:
    pairs_of = Phrases(
        ("red", "shirt", "blue", "green")
    )  # of the eight colours and four things few captions name two
    reword = Rewording(pairs.index, towers.tokenizer, pairs_of, 1.0, seed=1)
    said = {pairs.index.caption(row): reword.caption(row, 0) for row in range(64)}
    assert {caption for caption, text in said.items() if text} == {
        "red shirt",
        "blue shirt",
        "green shirt",
    }
    half = [
        made(pairs, towers, 0.5).caption(row, epoch) for epoch in range(10) for row in range(64)
    ]
    assert abs(sum(text is not None for text in half) - 320) < 60
    plain = batch_of(pairs, [0, 1, 2])
    none = Rewording(pairs.index, towers.tokenizer, Phrases(("teapot",)), 1.0, seed=1)
    assert none(plain, 0) is plain


def test_equal_queries_count_as_one_caption(pairs: PairInput, towers: Towers) -> None:
    bag = Phrases(("bag", "red"))
    rows = [row for row in range(64) if pairs.index.caption(row) == "red bag"]
    plain = batch_of(pairs, [*rows, 0])
    said = Rewording(pairs.index, towers.tokenizer, bag, 1.0, seed=0)(plain, 0)
    assert said.ids[0, 0] == said.ids[1, 0] and torch.equal(said.ids[:, 1], plain.ids[:, 1])
    assert torch.equal(said.ids[2], plain.ids[2]) and torch.equal(said.tokens[2], plain.tokens[2])


def test_training_with_keywords_is_the_same_twice_and_another_than_without(
    towers: Towers, tmp_path: Path
) -> None:
    """Captions say more than the two concepts of their queries."""
    captions = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    source = profiled(
        tmp_path / "train.tsv",
        [(f"{text} in a box", drawn_jpeg(text, seed)) for seed in (1, 2) for text in captions],
    )
    pairs = pair_input(towers.input_spec, index_pairs([source]))
    weights = {name: value.clone() for name, value in towers.clip.state_dict().items()}
    losses, told_of = [], list[Vocabulary]()

    for number, share in enumerate((0.5, 0.5, 0)):
        towers.clip.load_state_dict(weights)
        told: list[float] = []
        callbacks = Callbacks(
            on_step=lambda record, told=told: told.append(record.losses["loss"]),
            on_concepts=told_of.append,
        )
        config = tiny_stage_config(epochs=1, concept_weight=0, keyword_share=share)
        folder = tmp_path / str(number)
        train(towers, Stage(config, pairs, lambda _: {"mean_recall": 0.0}, folder, 0, 0), callbacks)
        losses.append(told)

    assert [set(vocabulary.phrases) for vocabulary in told_of] == [{*COLOURS, *THINGS}] * 2
    assert losses[0] == losses[1] != losses[2]


def slow_metrics(
    texts: list[str],
    captions: list[str],
    images: list[str],
    text: torch.Tensor,
    image: torch.Tensor,
):
    """Return Rank@1, 5 and 10 by looking at each query and each image in turn; exact for distinct similarities."""
    distinct, ranks = list(dict.fromkeys(images)), []
    similarity = text.double() @ image.double().T
    for query, typed in enumerate(texts):
        wanted = set(PHRASES.find(typed))
        right = {i for c, i in zip(captions, images, strict=True) if wanted <= set(PHRASES.find(c))}
        assert right
        best = max(float(similarity[query, distinct.index(i)]) for i in right)
        ranks.append(
            1
            + sum(
                float(similarity[query, n]) >= best
                for n, i in enumerate(distinct)
                if i not in right
            )
        )
    return {f"keyword_rank_at_{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}


def test_every_pair_that_names_all_of_a_query_s_concepts_is_a_right_answer() -> None:
    words = ("red", "blue", "floral", "maxi dress", "cotton", "红色", "plain")
    rng = np.random.default_rng(3)
    captions = [" ".join(rng.choice(words, rng.integers(1, 6), replace=False)) for _ in range(60)]
    captions += captions[:20]  # with other images
    images = [f"image {rng.integers(0, 70)}" for _ in captions]
    related = relate(captions, images)
    distinct = [captions[int(row)] for row in related.caption_row]
    queries = keyword_queries(distinct, related, PHRASES)
    assert len({frozenset(PHRASES.find(text)) for text in queries.texts}) == len(queries.texts) > 15
    text = torch.nn.functional.normalize(
        torch.randn(len(queries.texts), 8, generator=torch.manual_seed(0)), dim=1
    )
    image = torch.nn.functional.normalize(torch.randn(len(related.image_row), 8), dim=1)
    metrics = queries.metrics(text, image, block_rows=7)
    expected = slow_metrics(list(queries.texts), captions, images, text, image)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["keyword_mean_recall"] == pytest.approx(np.mean(list(expected.values())))
    assert 0 < metrics["keyword_chance_at_1"] < metrics["keyword_chance_at_10"] < 1


def test_queries_are_the_same_every_time_spread_over_the_split_and_at_most_so_many() -> None:
    captions = [
        f"red cotton {number}" if number % 2 else f"blue floral {number}" for number in range(40)
    ]
    related = relate(captions, captions)
    assert keyword_queries(captions, related, PHRASES).texts == ("blue floral", "red cotton")
    one = keyword_queries(captions, related, PHRASES, most=1)
    assert one.texts == ("blue floral",) and len(one.candidate) == 20
    again = keyword_queries(captions, related, PHRASES, most=1)
    assert torch.equal(one.candidate, again.candidate)


def test_a_split_that_names_no_two_concepts_has_no_keyword_figures() -> None:
    captions = ["red", "thing"]
    queries = keyword_queries(captions, relate(captions, captions), PHRASES)
    assert queries.texts == () and queries.metrics(torch.empty(0, 4), torch.eye(2, 4), 8) == {}
    assert isinstance(queries, KeywordQueries) and len(queries.query) == 0
