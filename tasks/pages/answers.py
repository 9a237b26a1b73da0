"""What models answer to chosen captions of a split, as the gallery presents it. Imports torch."""

from collections.abc import Sequence

import torch

from model.concepts.mining import Phrases
from model.evaluation.retrieval import RelevantPairs, ranks, top_k
from model.pairs.index import PairIndex
from tasks.pages.gallery import FoundImage, GalleryQuery, ModelResult

ANSWERS = 5


def gallery_queries(
    index: PairIndex,
    related: RelevantPairs,
    embeddings: dict[str, tuple[torch.Tensor, torch.Tensor]],
    chosen: Sequence[int],
    block_rows: int,
    phrases: Phrases | None = None,
) -> list[GalleryQuery]:
    """Look up every model's first answers to captions that were chosen, as rows of ``related``.

    ``embeddings`` holds each model's embeddings of the distinct captions [Q, D] and of the distinct
    images [C, D]. With ``phrases`` a wrong answer names the concepts of the caption that none of
    its own captions names.
    """
    if not chosen:
        return []

    rows = torch.tensor(chosen)
    right = [sorted(related.candidate[related.query == query].tolist()) for query in chosen]
    right_P = [(place, image) for place, images in enumerate(right) for image in images]
    query_P, image_P = torch.tensor(right_P).unbind(1)
    found = {
        name: (
            ranks(text[rows], image, query_P, image_P, block_rows),
            *top_k(text[rows], image, ANSWERS, block_rows, (query_P, image_P)),
        )
        for name, (text, image) in embeddings.items()
    }

    queries = []
    for place, query in enumerate(chosen):
        wanted = index.caption(int(related.caption_row[query]))
        asked = [] if phrases is None else phrases.find(wanted)
        results = []
        for name, (rank, similarity, answers) in found.items():
            pairs = zip(answers[place].tolist(), similarity[place].tolist(), strict=True)
            images = tuple(
                FoundImage(
                    index.encoded_image(int(related.image_row[image])),
                    image in right[place],
                    value,
                    index.caption(int(related.image_row[image])),
                    None
                    if image in right[place]
                    else _misses(index, related, image, asked, phrases),
                )
                for image, value in pairs
            )
            results.append(ModelResult(name, int(rank[place]), images))

        queries.append(
            GalleryQuery(
                wanted,
                index.encoded_image(int(related.image_row[right[place][0]])),
                tuple(results),
                tuple(phrases.phrases[concept] for concept in asked) if phrases else (),
            )
        )
    return queries


def _misses(
    index: PairIndex,
    related: RelevantPairs,
    image: int,
    asked: Sequence[int],
    phrases: Phrases | None,
) -> tuple[str, ...] | None:
    """List the concepts of a caption that no caption of an image names; None where it has none."""
    if phrases is None or not asked:
        return None
    captions = related.caption_row[related.query[related.candidate == image]].tolist()
    named = {concept for caption in captions for concept in phrases.find(index.caption(caption))}
    return tuple(phrases.phrases[concept] for concept in asked if concept not in named)
