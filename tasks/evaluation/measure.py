"""What one model answers to the questions about a test split, in figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from model.config.sections import EvaluateConfig
from model.evaluation.false_negatives import Audit, audit
from model.evaluation.figures import Figure, figures_of, measure
from model.evaluation.protocols import WRONG, CandidateSets, evaluate_candidates
from model.evaluation.queries import expected_scores, product_embeddings, score_queries
from model.evaluation.retrieval import (
    DIRECTIONS,
    RANK_AT,
    RetrievalResult,
    evaluate_retrieval,
)
from model.evaluation.slices import Slice, product_recall, slice_products
from model.evaluation.zero_shot import Classified, classify, labels_of, prompt_embeddings
from tasks.evaluation.questions import CAPTIONS, FIELDS, KEYWORDS, Questions
from tasks.pages.baselines import BASELINE

FULL, PRODUCT, SAMPLED = "full", "product", "101"
SINGLE, ENSEMBLE = "single", "ensemble"
IMAGE_QUERIES = (KEYWORDS, FIELDS, CAPTIONS)
REPORTED_SCORES = {
    KEYWORDS: ("precision_at_1", "precision_at_10", "ndcg_at_10", "mrr"),
    FIELDS: ("precision_at_1", "precision_at_10", "ndcg_at_10", "mrr"),
    CAPTIONS: ("recall_at_1", "recall_at_10", "mrr_at_10"),
}
LABEL_SCORES = ("precision_at_1", "precision_at_10", "mrr_at_10")


@dataclass(frozen=True)
class ModelEmbeddings:
    """Distinct captions [Q, D] and images [C, D] of test, embedded, and what embeds other texts."""

    texts: torch.Tensor
    images: torch.Tensor
    embed: Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class ModelFigures:
    """A model's figures by protocol, by kind of query and by column, its audit and its slices.

    ``query_baselines`` are what a random order scores. ``of_101`` are Rank@K of protocol 101 of the
    queries alone that have as many candidates (None without one), as others publish them.
    """

    results: dict[str, RetrievalResult]
    protocols: dict[str, dict[str, Figure]]
    keywords: dict[str, float]
    queries: dict[str, dict[str, Figure]]
    audit: Audit
    zero_shot: dict[str, dict[str, Classified]]
    slices: list[Slice]
    query_baselines: dict[str, dict[str, float]]
    of_101: dict[str, float | None]

    def metrics(self) -> dict[str, float]:
        """Flatten to names and values; those of other protocols than the full set are prefixed."""
        flat = self.results[FULL].metrics() | self.keywords
        for protocol, figures in self.protocols.items():
            flat |= _flat("" if protocol == FULL else f"{protocol}_", figures)
        for name, figures in self.queries.items():
            prefix = f"{name}_" if name in IMAGE_QUERIES else f"{name}_to_product_"
            flat |= _flat(prefix, figures)
            flat |= {
                f"{prefix}{key}{BASELINE}": value
                for key, value in self.query_baselines[name].items()
            }

        flat["text_to_image_audited_rank_at_1"] = self.audit.audited
        for column, by_prompt in self.zero_shot.items():
            for prompts, found in by_prompt.items():
                flat |= _flat(f"zero_shot_{prompts}_{column}_", {"accuracy": found.accuracy})
                flat[f"zero_shot_{prompts}_{column}_macro_accuracy"] = found.macro
                flat |= {
                    f"zero_shot_{prompts}_{column}_{key}{BASELINE}": value
                    for key, value in found.baselines.items()
                }
        return {name.replace(" ", "_"): value for name, value in flat.items()}

    def to_json(self) -> dict[str, Any]:
        """Collect everything as plain values, for a file."""
        protocols, queries = (
            {
                name: {key: vars(figure) for key, figure in figures.items()}
                for name, figures in by_name.items()
            }
            for by_name in (self.protocols, self.queries)
        )
        chance = {
            name: {
                f"{way}_rank_at_{k}": value
                for way in DIRECTIONS
                for k, value in getattr(each, way).chance_at.items()
            }
            for name, each in self.results.items()
        }

        return {
            "protocols": protocols,
            "chance": chance,
            "queries": queries,
            "query_baselines": self.query_baselines,
            "of_101": self.of_101,
            "keywords": self.keywords,
            "audit": vars(self.audit)
            | {"strict": self.audit.strict, "audited": self.audit.audited},
            "zero_shot": {
                column: {
                    prompts: {
                        "labels": list(found.labels),
                        "accuracy": vars(found.accuracy),
                        "macro_accuracy": found.macro,
                        "largest_label": found.largest,
                        "confusion": found.confusion.tolist(),
                    }
                    for prompts, found in by_prompt.items()
                }
                for column, by_prompt in self.zero_shot.items()
            },
            "slices": [vars(each) for each in self.slices],
        }


def measure_model(
    model: ModelEmbeddings, questions: Questions, config: EvaluateConfig, seed: int
) -> ModelFigures:
    """Ask a model everything that there is to ask about a test split.

    Raises:
        ValueError: an embedding is NaN or infinite.
    """
    draws, rows = config.bootstrap_draws, config.block_rows
    queries = {name: model.embed(list(each.texts)) for name, each in questions.queries.items()}
    keywords = questions.queries.get(KEYWORDS)

    # The same embeddings under every protocol that test allows.
    results = {FULL: evaluate_retrieval(model.texts, model.images, questions.related, rows)}
    if questions.has_products:
        results[PRODUCT] = evaluate_retrieval(model.texts, model.images, questions.products, rows)
    if questions.candidates is not None:
        results[SAMPLED] = evaluate_candidates(
            model.texts, model.images, questions.candidates, questions.group
        )
    _, value_N = product_recall(results[FULL], questions.group)
    found = _score(model, queries, questions, config, seed)
    by_chance = {
        name: expected_scores(questions.queries[name], len(model.images)) for name in found
    }

    return ModelFigures(
        results=results,
        protocols={
            name: measure(result, questions.group, draws, seed) for name, result in results.items()
        },
        keywords=keywords.metrics(queries[KEYWORDS], model.images, rows) if keywords else {},
        queries=found,
        audit=audit(model.texts, model.images, questions.related, questions.concepts, rows),
        zero_shot=_classify(model, questions, config, seed),
        slices=slice_products(value_N, questions.slices, seed),
        query_baselines={
            name: {key: by_chance[name][key] for key in scores} for name, scores in found.items()
        },
        of_101=_of_101(results.get(SAMPLED), questions.candidates),
    )


def _of_101(
    result: RetrievalResult | None, candidates: CandidateSets | None
) -> dict[str, float | None]:
    """Return Rank@K by direction of the queries that have all 101 candidates."""
    found: dict[str, float | None] = {}
    for way in DIRECTIONS if result is not None else ():
        is_whole = (getattr(candidates, way) >= 0).sum(axis=1) > WRONG
        ranks = getattr(result, way).ranks[is_whole]
        for k in RANK_AT:
            found[f"{way}_rank_at_{k}"] = float((ranks <= k).mean()) if len(ranks) else None
    return found


def _score(
    model: ModelEmbeddings,
    text_QD: dict[str, torch.Tensor],
    questions: Questions,
    config: EvaluateConfig,
    seed: int,
) -> dict[str, dict[str, Figure]]:
    """Score the queries that many images answer; those of labels search products, not images."""
    products_CD = product_embeddings(model.texts, model.images, questions.caption_of_image)
    found = {}
    for name, queries in questions.queries.items():
        searched_CD = model.images if name in IMAGE_QUERIES else products_CD
        scores = score_queries(queries, text_QD[name], searched_CD, config.block_rows)
        reported = {key: scores[key] for key in REPORTED_SCORES.get(name, LABEL_SCORES)}
        # Each query is a group of its own in the bootstrap.
        group = torch.arange(len(queries.texts)).numpy()
        found[name] = figures_of(reported, group, config.bootstrap_draws, seed)
    return found


def _classify(
    model: ModelEmbeddings, questions: Questions, config: EvaluateConfig, seed: int
) -> dict[str, dict[str, Classified]]:
    """Classify images by each column with two labels or more, with one prompt and with all."""
    found = {}
    group, draws = questions.group[1], config.bootstrap_draws
    for column, label_C in questions.labels.items():
        labels = labels_of(label_C, questions.known_labels.get(column, ()))
        if any(label_C) and len(labels) > 1:
            found[column] = {
                prompts: classify(
                    model.images,
                    prompt_embeddings(labels, templates, model.embed),
                    labels,
                    label_C,
                    group,
                    draws,
                    seed,
                )
                for prompts, templates in (
                    (SINGLE, config.prompts[:1]),
                    (ENSEMBLE, config.prompts),
                )
            }
    return found


def _flat(prefix: str, figures: dict[str, Figure]) -> dict[str, float]:
    return {
        f"{prefix}{name}{suffix}": value
        for name, figure in figures.items()
        for suffix, value in (
            ("", figure.value),
            ("_low", figure.low),
            ("_high", figure.high),
            ("_optimistic", figure.optimistic),
        )
        if value is not None
    }
