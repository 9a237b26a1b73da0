"""The peers of the rank benchmark find what ours finds."""

import numpy as np
import pytest

from benchmarks import rank
from model.evaluation.retrieval import RetrievalResult


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "CHUNK", 30)


def test_peers_give_our_ranks_where_nothing_ties() -> None:
    text, image = rank.embeddings(100, 16)
    ours = rank.rank(text, image)
    assert isinstance(ours, RetrievalResult)
    of_text, of_image = rank.open_clip_ranks(text, image)
    assert (of_text.numpy() + 1).tolist() == ours.text_to_image.ranks.tolist()
    assert (of_image.numpy() + 1).tolist() == ours.image_to_text.ranks.tolist()
    assert rank.easynlp_recalls(text, image, 100) == pytest.approx(
        list(ours.text_to_image.rank_at.values())
    )
    assert 1 < np.mean(ours.text_to_image.ranks) < 25  # neither chance nor trivial
