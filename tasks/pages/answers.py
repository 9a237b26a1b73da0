"""What models answer to chosen captions of a split, as a gallery shows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.pages.gallery import Answer, GalleryQuery, ModelResult

if TYPE_CHECKING:
    from model.concepts.mining import Phrases
    from model.evaluation.retrieval import RelevantPairs
    from model.pairs.index import PairIndex

ANSWERS = 5


def gallery_queries(
    index: "PairIndex",
    related: "RelevantPairs",
    embeddings: dict[str, tuple[Any, Any]],
    chosen: Sequence[int],
    block_rows: int,
    phrases: "Phrases | None" = None,
) -> list[GalleryQuery]:
    """Return the chosen captions, by their rows in ``related``, with every model's first answers.

    ``embeddings`` holds each model's embeddings of the distinct captions [Q, D] and of the distinct
    images [C, D]. With ``phrases`` a wrong answer says which concepts of the caption none of its
    own captions names.
    """
    import torch

    from model.evaluation.retrieval import ranks, top_k

    if not chosen:
        return []
    rows = torch.tensor(chosen)
    right_P = [
        (place, image) for place, query in enumerate(chosen) for image in _images(related, query)
    ]
    query_P, image_P = torch.tensor(right_P).unbind(1)
    found = {
        name: (
            ranks(text[rows], image, query_P, image_P, block_rows),
            *top_k(text[rows], image, ANSWERS, block_rows, (query_P, image_P)),
        )
        for name, (text, image) in embeddings.items()
    }
    queries = []
    for position, query in enumerate(chosen):
        images = _images(related, query)
        wanted = index.caption(int(related.caption_row[query]))
        results = tuple(
            ModelResult(
                name,
                int(rank[position]),
                tuple(
                    _answer(index, related, images, wanted, image, value, phrases)
                    for image, value in zip(
                        answers[position].tolist(), similarity[position].tolist(), strict=True
                    )
                ),
            )
            for name, (rank, similarity, answers) in found.items()
        )
        right_image = index.encoded_image(int(related.image_row[images[0]]))
        concepts = (
            [] if phrases is None else [phrases.phrases[number] for number in phrases.find(wanted)]
        )
        queries.append(GalleryQuery(wanted, right_image, results, tuple(concepts)))
    return queries


def _images(related: "RelevantPairs", query: int) -> list[int]:
    """Return the right answers of a caption, ascending."""
    return sorted(related.candidate[related.query == query].tolist())


def _answer(
    index: "PairIndex",
    related: "RelevantPairs",
    right: list[int],
    wanted: str,
    image: int,
    similarity: float,
    phrases: "Phrases | None",
) -> Answer:
    row = int(related.image_row[image])
    misses: tuple[str, ...] | None = None
    if phrases is not None and image not in right and (asked := phrases.find(wanted)):
        captions = related.caption_row[related.query[related.candidate == image]].tolist()
        named = {
            concept for caption in captions for concept in phrases.find(index.caption(caption))
        }
        misses = tuple(phrases.phrases[concept] for concept in asked if concept not in named)
    return Answer(index.encoded_image(row), image in right, similarity, index.caption(row), misses)
