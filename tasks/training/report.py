"""The report of a training stage: one page with its curves, epochs, concepts and worst queries.

`training.html` loads nothing and runs nothing; `curves.png` is its picture. Both lie in the stage's
folder and are attached to the MLflow run; Prefect links the page.
"""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from model.storage.files import atomic_write
from tasks.pages.answers import gallery_queries
from tasks.pages.gallery import cards_html, page_html
from tasks.pages.text import ARROWS, escaped
from tasks.registry.tracking import attach
from tasks.runtime.page import publish_link
from tasks.runtime.records import Run
from tasks.training.concepts import PICTURE_FILE
from tasks.training.curves import Series, curves_png, read_series

if TYPE_CHECKING:
    from model.batches.loading import PairInput
    from tasks.pages.gallery import GalleryQuery

PAGE_FILE, CURVES_FILE = "training.html", "curves.png"
WORST_QUERIES = 8


def report_training(run: Run, name: str, best: Path, best_epoch: int, valid: "PairInput") -> None:
    """Write the report of a stage that has ended, attach it to MLflow and link it from Prefect.

    Raises:
        CheckpointError: the best weights are damaged, or the report cannot be written.
    """
    folder = run.folder / name
    series = read_series(folder)
    title = f"{run.config.name}: {name} on data version {run.data.short}"
    curves = curves_png(title, series)
    body = [_picture(curves, "curves"), epochs_html(series, best_epoch)]
    if (folder / PICTURE_FILE).exists():
        body.append(
            f"<h2>Concepts</h2>{_picture((folder / PICTURE_FILE).read_bytes(), 'concepts')}"
        )
    worst = _worst_queries(run, best, valid)
    body.append(f"<h2>The {len(worst)} worst queries of valid</h2>{cards_html(worst)}")
    facts = f"Best of {len(series['valid_mean_recall'].steps)} epochs on valid: {best_epoch}."
    page = page_html(title, f"<p>{escaped(facts)}</p>", "\n".join(body))
    for file_name, content in {CURVES_FILE: curves, PAGE_FILE: page.encode()}.items():
        with atomic_write(folder / file_name) as file:
            file.write(content)
    attach(run.mlflow_run_id, [folder / PAGE_FILE, folder / CURVES_FILE], name)
    link = (folder / PAGE_FILE).as_uri()
    publish_link(link, text="Training report", key=f"training-{name}", description=title)


def epochs_html(series: dict[str, Series], best_epoch: int) -> str:
    """Return a table of what validation found after each epoch, in percent."""
    shown = {
        name: series[f"valid_{key}"]
        for key, name in (
            ("mean_recall", "mean recall"),
            *(
                (f"{way}_rank_at_{k}", f"{arrow} Rank@{k}")
                for way, arrow in ARROWS.items()
                for k in (1, 5, 10)
            ),
        )
        if f"valid_{key}" in series
    }
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in ("epoch", "step", *shown))
    rows = []
    for number, step in enumerate(series["valid_mean_recall"].steps):
        cells = "".join(f"<td>{100 * column.values[number]:.1f}</td>" for column in shown.values())
        mark = ' class="best"' if number + 1 == best_epoch else ""
        rows.append(f"<tr{mark}><td>{number + 1}</td><td>{step:,}</td>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _picture(png: bytes, what: str) -> str:
    return f'<img class="wide" src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{what}">'


def _worst_queries(run: Run, best: Path, valid: "PairInput") -> "list[GalleryQuery]":
    """Return the captions of valid whose picture the best weights rank last."""
    from model.embeddings.embed import embed_pairs
    from model.evaluation.retrieval import ranks, relate
    from model.towers.folder import load_towers

    towers, settings = (
        load_towers(best, run.config.device, run.config.precision),
        run.config.evaluate,
    )
    text_ND, image_ND = embed_pairs(towers, valid, settings.batch_size, run.config.workers)
    related = relate(valid.index.caption_hash.tolist(), valid.index.image_hash.tolist())
    text_QD, image_CD = text_ND[related.caption_row], image_ND[related.image_row]
    found = ranks(text_QD, image_CD, related.query, related.candidate, settings.block_rows)
    chosen = found.argsort(descending=True, stable=True)[:WORST_QUERIES]
    return gallery_queries(
        valid.index,
        related,
        {"best weights": (text_QD, image_CD)},
        chosen.tolist(),
        settings.block_rows,
    )
