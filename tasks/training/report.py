"""The report of a training stage: one page with its curves, epochs, concepts and worst queries.

`training.html` loads nothing and runs nothing. It lies in the stage's folder and is attached to the
MLflow run; Prefect links it. Imports torch.
"""

from pathlib import Path

from model.batches.loading import PairInput
from model.embeddings.embed import embed_pairs
from model.evaluation.retrieval import RANK_AT, ranks, relate
from model.storage.files import atomic_write
from model.towers.folder import load_towers
from tasks.pages.answers import gallery_queries
from tasks.pages.gallery import GalleryQuery
from tasks.pages.html import render
from tasks.pages.text import ARROWS
from tasks.registry.tracking import attach
from tasks.runtime.environment import page_address
from tasks.runtime.page import publish_link
from tasks.runtime.records import Run
from tasks.training.concepts import PICTURE_FILE
from tasks.training.curves import Series, read_series, stage_panels

PAGE_FILE = "training.html"
WORST_QUERIES = 8


def report_training(run: Run, name: str, best: Path, best_epoch: int, valid: PairInput) -> None:
    """Write the report of a stage that has ended, attach it to MLflow and link it from Prefect.

    Raises:
        CheckpointError: the best weights are damaged, or the report cannot be written.
    """
    folder = run.folder / name
    series = read_series(folder)
    title = f"{run.config.name}: {name} on data version {run.data.short}"
    concepts = folder / PICTURE_FILE

    # The worst queries are captions of valid whose image the best weights rank last. Pairs may
    # share a caption or an image; both are ranked once.
    settings = run.config.evaluate
    towers = load_towers(best, run.config.device, run.config.precision)
    text_ND, image_ND = embed_pairs(towers, valid, settings.batch_size, run.config.workers)
    related = relate(valid.index.caption_hash.tolist(), valid.index.image_hash.tolist())
    text_QD, image_CD = text_ND[related.caption_row], image_ND[related.image_row]
    found = ranks(text_QD, image_CD, related.query, related.candidate, settings.block_rows)
    worst = gallery_queries(
        valid.index,
        related,
        {"best weights": (text_QD, image_CD)},
        found.argsort(descending=True, stable=True)[:WORST_QUERIES].tolist(),
        settings.block_rows,
    )

    drawn = concepts.read_bytes() if concepts.exists() else None
    page = training_html(title, series, best_epoch, drawn, worst)

    with atomic_write(folder / PAGE_FILE) as file:
        file.write(page.encode())
    attach(run.mlflow_run_id, [folder / PAGE_FILE], name)
    publish_link(
        page_address(folder / PAGE_FILE),
        text="Training report",
        key=f"training-{name}",
        description=title,
    )


def training_html(
    title: str,
    series: dict[str, Series],
    best_epoch: int,
    concepts: bytes | None,
    worst: list[GalleryQuery],
) -> str:
    """Render the page; a row an epoch says what validation found, in percent."""
    columns = {"mean_recall": "mean recall"} | {
        f"{way}_rank_at_{k}": f"{arrow} Rank@{k}" for way, arrow in ARROWS.items() for k in RANK_AT
    }
    measured = {
        heading: series[f"valid_{key}"].values
        for key, heading in columns.items()
        if f"valid_{key}" in series
    }

    # Cells are text already, so that the template need not know shares from steps.
    epochs = [
        [f"{number + 1}", f"{step:,}"]
        + [f"{100 * values[number]:.1f}" for values in measured.values()]
        for number, step in enumerate(series["valid_mean_recall"].steps)
    ]
    return render(
        "training.html.jinja",
        title=title,
        best_epoch=best_epoch,
        panels=stage_panels(series),
        columns=["epoch", "step", *measured],
        epochs=epochs,
        concepts=concepts,
        worst=worst,
    )
