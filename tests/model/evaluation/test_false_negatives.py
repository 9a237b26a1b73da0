"""The false-negative audit, against a slow twin that looks at each caption in turn."""

import numpy as np
import pytest
import torch

from model.evaluation.false_negatives import audit
from model.evaluation.retrieval import relate
from tests.model.evaluation.test_retrieval import embeddings

CAPTIONS = ["navy shirt", "navy shirt Nike", "red shirt", "thing", "navy shirt Puma"]
CONCEPTS = [[0, 1], [0, 1, 2], [3, 1], [], [0, 1, 4]]


def test_a_first_answer_that_is_all_that_the_caption_says_is_a_false_negative() -> None:
    related = relate(CAPTIONS, CAPTIONS)
    image = torch.eye(5)
    # The plain navy shirt finds Nike's (all that it says); Nike's finds the plain one (not Nike);
    # the red shirt itself; the thing something, but names no concept; Puma's the red one.
    text = image[[1, 0, 2, 0, 2]]
    found = audit(text, image, related, CONCEPTS, 2)
    assert (found.queries, found.misses, found.judged, found.satisfied) == (5, 4, 3, 1)
    assert (found.strict, found.audited) == (pytest.approx(0.2), pytest.approx(0.4))
    assert found.by_chance == pytest.approx(
        2 / 4
    )  # two of the four others are navy shirts, for one of the three


def test_figures_are_those_of_the_slow_twin() -> None:
    rng = np.random.default_rng(0)
    captions = [f"{n}" for n in rng.integers(0, 50, 80)]
    images = [f"{n}" for n in rng.integers(0, 60, 80)]
    related = relate(captions, images)
    queries, candidates = len(related.caption_row), len(related.image_row)
    concepts = [
        sorted(rng.choice(4, rng.integers(0, 4), replace=False).tolist()) for _ in range(queries)
    ]
    text, image = embeddings(queries, 0), embeddings(candidates, 1)
    image[3] = image[4]
    similarity = (text.double() @ image.double().T).float().numpy()
    own = [set(related.candidate[related.query == query].tolist()) for query in range(queries)]
    of_image = [
        set().union(*(concepts[q] for q in related.query[related.candidate == image].tolist()))
        for image in range(candidates)
    ]
    misses = judged = satisfied = 0
    by_chance = 0.0
    for query, row in enumerate(similarity):
        first = min(range(candidates), key=lambda c: (-row[c], c in own[query], c))
        misses += first not in own[query]
        if first not in own[query] and concepts[query]:
            judged += 1
            satisfied += set(concepts[query]) <= of_image[first]
            others = [c for c in range(candidates) if c not in own[query]]
            by_chance += np.mean([set(concepts[query]) <= of_image[c] for c in others])
    found = audit(text, image, related, concepts, 7)
    assert (found.misses, found.judged, found.satisfied) == (misses, judged, satisfied)
    assert found.by_chance == pytest.approx(by_chance)


def test_a_model_without_misses_has_nothing_to_audit() -> None:
    related = relate(CAPTIONS, CAPTIONS)
    found = audit(torch.eye(5), torch.eye(5), related, CONCEPTS, 2)
    assert (found.misses, found.satisfied, found.strict, found.audited) == (0, 0, 1.0, 1.0)
