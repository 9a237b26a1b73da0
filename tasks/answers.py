"""What models answer to chosen captions of a split, as a gallery shows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.gallery import Answer, GalleryQuery, ModelResult

if TYPE_CHECKING:
    from model.dataset import PairIndex
    from model.retrieval import RelevantPairs

ANSWERS = 5


def gallery_queries(
    index: "PairIndex",
    related: "RelevantPairs",
    embeddings: dict[str, tuple[Any, Any]],
    chosen: Sequence[int],
    block_rows: int,
) -> list[GalleryQuery]:
    """Return the chosen captions, by their rows in ``related``, with every model's first answers.

    ``embeddings`` holds each model's embeddings of the distinct captions [Q, D] and of the distinct images [C, D].
    """
    import torch

    from model.retrieval import ranks, top_k

    rows = torch.tensor(chosen)
    found = {
        name: (
            ranks(text, image, related.query, related.candidate, block_rows)[rows],
            *top_k(text[rows], image, ANSWERS, block_rows),
        )
        for name, (text, image) in embeddings.items()
    }
    queries = []
    for position, query in enumerate(chosen):
        right = set(related.candidate[related.query == query].tolist())
        results = tuple(
            _model_result(name, index, related, right, int(rank[position]), similarity[position], answers[position])
            for name, (rank, similarity, answers) in found.items()
        )
        image = index.encoded_image(int(related.image_row[min(right)]))
        queries.append(GalleryQuery(index.caption(int(related.caption_row[query])), image, results))
    return queries


def _model_result(
    name: str, index: "PairIndex", related: "RelevantPairs", right: set[int], rank: int, similarity: Any, answers: Any
) -> ModelResult:
    shown = []
    for candidate, value in zip(answers.tolist(), similarity.tolist(), strict=True):
        row = int(related.image_row[candidate])
        shown.append(Answer(index.encoded_image(row), candidate in right, value, index.caption(row)))
    return ModelResult(name, rank, tuple(shown))
