"""The concepts of a run: the table that a person can edit, and the images that each is near to.

Both lie in the folder of the stage that was trained with them and are attached to the MLflow run.
The picture embeds `PAIRS` pairs of train and of valid twice: half a second for the sample, 12 s for
a ViT-B-32 on two cores. Imports torch.
"""

from collections.abc import Sequence
from pathlib import Path

from model.batches.loading import PairInput
from model.concepts.mining import Phrases, Vocabulary, mine_concepts
from model.concepts.nearest_images import nearest_images, spread_pairs, weightiest_concepts
from model.concepts.table import CONCEPTS_FILE, read_concepts
from model.storage.files import atomic_write
from model.towers.folder import load_towers
from tasks.pages.pictures import Block, GridRow, Tile, grid_png
from tasks.registry.tracking import attach
from tasks.runtime.records import Run, Validation
from tasks.validation.accepted import split_index

PAIRS = 200
DRAWN_CONCEPTS, DRAWN_IMAGES = 12, 5
PICTURE_FILE = "concepts.png"


def concepts_png(title: str, models: Sequence[str], rows: Sequence[GridRow]) -> bytes:
    """Draw a row a concept and a block a model: the nearest images, marked if captions name it."""
    # How often a nearest image is named is the figure by which to compare the models.
    heads = []
    for place, model in enumerate(models):
        named = [tile.is_marked for row in rows for tile in row.blocks[place].tiles]
        heads.append(f"{model}: {sum(named) / max(len(named), 1):.0%} named")

    subtitle = (
        "The images of valid nearest to each concept's prototype; "
        "framed are those whose captions name it."
    )
    return grid_png(title, subtitle, heads, rows)


def report_concepts(
    run: Run,
    name: str,
    vocabulary: Vocabulary,
    train: PairInput,
    valid: PairInput,
    before: Path,
    after: Path,
) -> None:
    """Draw a stage's concepts before and after training, and attach picture and table to MLflow.

    Raises:
        CheckpointError: a model folder is damaged, or the picture cannot be written.
    """
    made_of, searched = spread_pairs(train, PAIRS), spread_pairs(valid, PAIRS)
    labels = vocabulary.label(made_of.index.captions())
    concepts = weightiest_concepts(vocabulary, labels, DRAWN_CONCEPTS)
    batch, workers = run.config.evaluate.batch_size, run.config.workers

    # By model, the nearest images of each concept; one pair of towers in memory at a time.
    near: dict[str, list[Block]] = {}
    for model, towers_folder in {"before": before, "after": after}.items():
        towers = load_towers(towers_folder, run.config.device, run.config.precision)
        near[model] = [
            Block(
                tuple(
                    Tile(pair.image or b"", each.concept in vocabulary.find(pair.caption or ""))
                    for pair in map(searched.index.read, each.rows)
                )
            )
            for each in nearest_images(
                towers, made_of, labels, searched, concepts, DRAWN_IMAGES, batch, workers
            )
        ]
    rows = [
        GridRow(
            vocabulary.phrases[concept],
            tuple(blocks[place] for blocks in near.values()),
            about=f"{vocabulary.counts[concept]:,} captions",
        )
        for place, concept in enumerate(concepts)
    ]

    files = [run.folder / name / CONCEPTS_FILE]
    if rows:
        files.append(run.folder / name / PICTURE_FILE)
        with atomic_write(files[-1]) as file:
            title = f"{run.config.name}: concepts before and after {name}"
            file.write(concepts_png(title, list(near), rows))
    attach(run.mlflow_run_id, files, name)


def keyword_phrases(run: Run, validation: Validation) -> Phrases:
    """Find the concepts that keyword queries are made of: those of fine-tuning, or else of train.

    Raises:
        ConfigError: the table that the config names cannot be used.
        DataError: train has no accepted pair.
    """
    config, left = run.config.finetune, run.folder / "finetune" / CONCEPTS_FILE
    if left.exists():
        return read_concepts(left)
    choice = run.config.data.language
    language = None if choice == "auto" else choice
    if config.concepts is not None:
        return read_concepts(Path(config.concepts), language)
    captions = split_index(run, validation, "finetune").captions()
    return mine_concepts(captions, config.min_concept_count, config.max_concepts, language)
