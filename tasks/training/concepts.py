"""What a run shows of its concepts: the table that a person can edit, and the pictures that each is
near to.

Both lie in the folder of the stage that was trained with them and are attached to the MLflow run.
The picture embeds `PAIRS` pairs of train and of valid twice: half a second for the sample, 12 s for
a ViT-B-32 on two cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from model.storage.files import atomic_write
from tasks.pages.drawing import (
    GAP,
    INK,
    LINE,
    MARGIN,
    MUTED,
    PAPER,
    TILE,
    frame_tile,
    paste_tile,
    png,
    write_line,
)
from tasks.registry.tracking import attach
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import split_index

if TYPE_CHECKING:
    from model.batches.loading import PairInput
    from model.concepts.mining import Phrases, Vocabulary
    from model.concepts.nearest_images import Nearest

PAIRS = 200
SHOWN_CONCEPTS, SHOWN_PICTURES = 12, 5
PICTURE_FILE = "concepts.png"
# Lengths of the picture in pixels.
NAME_WIDTH, BLOCK_GAP, HEAD, ROW = 250, 48, 170, 172


@dataclass(frozen=True)
class NearPicture:
    """A picture near to a concept, its encoded bytes as in the TSV, and whether its caption names the concept."""

    image: bytes
    is_named: bool


@dataclass(frozen=True)
class ConceptRow:
    """A concept, how many train captions name it, and by model the pictures that lie nearest, nearest first."""

    concept: str
    count: int
    pictures: dict[str, tuple[NearPicture, ...]]


def concepts_png(title: str, rows: Sequence[ConceptRow]) -> bytes:
    """Return a PNG: a row a concept, a block of its nearest pictures a model, those whose captions name it framed."""
    names = list(rows[0].pictures) if rows else []
    block = SHOWN_PICTURES * (TILE + GAP) - GAP
    width = MARGIN + NAME_WIDTH + len(names) * (BLOCK_GAP + block) + MARGIN
    picture = Image.new("RGB", (max(width, 900), HEAD + len(rows) * ROW + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    write_line(draw, (MARGIN, 40), title, 34, INK, picture.width - 2 * MARGIN, bold=True)
    explained = "The pictures of valid nearest to each concept's prototype; framed are those whose captions name it."
    write_line(draw, (MARGIN, 88), explained, 20, MUTED, picture.width - 2 * MARGIN)
    for column, name in enumerate(names):
        shown = [near.is_named for row in rows for near in row.pictures[name]]
        share = f"{name}: {sum(shown) / max(len(shown), 1):.0%} named"
        write_line(draw, (_left(column, block), HEAD - 38), share, 22, INK, block, bold=True)
    for number, row in enumerate(rows):
        _draw_row(picture, HEAD + number * ROW, row, block)
    return png(picture)


def _draw_row(picture: Image.Image, top: int, row: ConceptRow, block: int) -> None:
    draw = ImageDraw.Draw(picture)
    draw.line((MARGIN, top, picture.width - MARGIN, top), LINE)
    write_line(draw, (MARGIN, top + 60), row.concept, 24, INK, NAME_WIDTH, bold=True)
    write_line(draw, (MARGIN, top + 94), f"{row.count:,} captions", 18, MUTED, NAME_WIDTH)
    for column, pictures in enumerate(row.pictures.values()):
        for place, near in enumerate(pictures):
            corner = (_left(column, block) + place * (TILE + GAP), top + (ROW - TILE) // 2)
            paste_tile(picture, corner, near.image)
            if near.is_named:
                frame_tile(draw, corner)


def _left(column: int, block: int) -> int:
    return MARGIN + NAME_WIDTH + BLOCK_GAP + column * (block + BLOCK_GAP)


def keep_concepts(vocabulary: "Vocabulary", folder: Path) -> None:
    """Leave the table of a stage's concepts in its folder."""
    from model.concepts.table import CONCEPTS_FILE, write_concepts

    write_concepts(vocabulary, folder / CONCEPTS_FILE)


def show_concepts(
    run: Run,
    name: str,
    vocabulary: "Vocabulary",
    train: "PairInput",
    valid: "PairInput",
    before: Path,
    after: Path,
) -> None:
    """Draw a stage's concepts before and after training into its folder, and attach picture and
    table to MLflow.

    Raises:
        CheckpointError: a model folder is damaged, or the picture cannot be written.
    """
    from model.concepts.table import CONCEPTS_FILE

    rows = _concept_rows(run, vocabulary, train, valid, {"before": before, "after": after})
    folder = run.folder / name
    files = [folder / CONCEPTS_FILE]
    if rows:
        files.append(folder / PICTURE_FILE)
        with atomic_write(files[-1]) as file:
            file.write(concepts_png(f"{run.config.name}: concepts before and after {name}", rows))
    attach(run.mlflow_run_id, files, name)


def _concept_rows(
    run: Run,
    vocabulary: "Vocabulary",
    train: "PairInput",
    valid: "PairInput",
    folders: dict[str, Path],
) -> list[ConceptRow]:
    from model.concepts.nearest_images import nearest_images, spread_pairs, weightiest_concepts
    from model.towers.folder import load_towers

    made_of, searched = spread_pairs(train, PAIRS), spread_pairs(valid, PAIRS)
    labels = vocabulary.label(made_of.index.captions())
    concepts = weightiest_concepts(vocabulary, labels, SHOWN_CONCEPTS)
    batch, workers = run.config.evaluate.batch_size, run.config.workers
    near: dict[str, list[Nearest]] = {}
    for name, folder in folders.items():
        towers = load_towers(folder, run.config.device, run.config.precision)
        near[name] = nearest_images(
            towers, made_of, labels, searched, concepts, SHOWN_PICTURES, batch, workers
        )
    return [
        ConceptRow(
            vocabulary.phrases[concept],
            vocabulary.counts[concept],
            {
                name: _near_pictures(vocabulary, searched, found[place])
                for name, found in near.items()
            },
        )
        for place, concept in enumerate(concepts)
    ]


def _near_pictures(
    vocabulary: "Vocabulary", searched: "PairInput", nearest: "Nearest"
) -> tuple[NearPicture, ...]:
    pairs = [searched.index.read(row) for row in nearest.rows]
    return tuple(
        NearPicture(pair.image or b"", nearest.concept in vocabulary.find(pair.caption or ""))
        for pair in pairs
    )


def keyword_phrases(run: Run, validation: Validation) -> "Phrases":
    """Return the concepts that keyword queries are made of: those that fine-tuning left, or else
    train's.

    Raises:
        ConfigError: the table that the config names cannot be used.
        DataError: train has no accepted pair.
    """
    from model.concepts.mining import mine_concepts
    from model.concepts.table import CONCEPTS_FILE, read_concepts

    config, left = run.config.finetune, run.folder / "finetune" / CONCEPTS_FILE
    if left.exists():
        return read_concepts(left)
    if config.concepts is not None:
        return read_concepts(Path(config.concepts))
    captions = split_index(run, validation, "finetune").captions()
    return mine_concepts(captions, config.min_concept_count, config.max_concepts)
