"""A test split of 32 tiny pairs with a side table, and the answers of two random models."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from model.concepts.mining import Phrases
from model.config.sections import EvaluateConfig
from model.pairs.index import PairIndex, index_pairs
from tasks.evaluation.measure import Embedded, Judgement, judge_model
from tasks.evaluation.questions import Questions, make_questions
from tests.tiny import COLOURS, THINGS, drawn_jpeg, profiled

CONFIG = EvaluateConfig(bootstrap_draws=100, block_rows=7)
PHRASES = Phrases((*COLOURS, *THINGS))
EVIL = "<b>|`$x$\x1b[31m"


def split(
    folder: Path, columns: tuple[str, ...] = ("id", "category", "subcategory", "colour", "date")
) -> PairIndex:
    """Write the 32 pairs, two pictures a product, and the wanted columns of their side table."""
    captions = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    source = profiled(
        folder / "test.tsv", [(caption, drawn_jpeg(caption, 3)) for caption in captions]
    )
    if columns:
        rows = [",".join(columns)]
        for number, caption in enumerate(captions):
            colour, thing = caption.split()
            kind = "Goods" if thing in ("shoe", "bag") else "Wear"
            fields = {
                "id": f"p{number // 2}",
                "category": kind,
                "subcategory": thing,
                "colour": colour.title(),
            }
            fields["date"] = f"202{number % 4}-01-0{1 + number % 3}"
            rows.append(",".join(fields[column] for column in columns))
        (folder / "test.products.csv").write_text("\n".join(rows) + "\n")
    return index_pairs([source])


def ask(test: PairIndex, config: EvaluateConfig = CONFIG) -> Questions:
    """Return the questions about a split."""
    return make_questions(test, PHRASES, config, seed=0)


def model(questions: Questions, noise: float) -> Embedded:
    """Return a model whose texts lie near their pictures, nearer the less noise there is."""

    def embed(texts: list[str]) -> torch.Tensor:
        rows = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        drawn = np.stack([np.random.default_rng(row).normal(size=16) for row in rows])
        return torch.nn.functional.normalize(torch.from_numpy(drawn).float(), dim=1)

    images = embed([f"image {row}" for row in questions.related.image_row.tolist()])
    texts = images + noise * embed(questions.captions)
    return Embedded(torch.nn.functional.normalize(texts, dim=1), images, embed)


def judge(questions: Questions, noise: float = 1.0) -> Judgement:
    """Return what such a model answers."""
    return judge_model(model(questions, noise), questions, CONFIG, seed=0)
