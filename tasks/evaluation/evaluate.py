"""Judge a model on the test split beside the champion and its base weights: figures, tables, pictures, gallery."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.storage.files import atomic_write
from tasks.evaluation.charts import confusion_chart, rank_chart
from tasks.evaluation.model_card import write_card
from tasks.evaluation.tables import (
    BASE,
    CHAMPION,
    FIGURES_FILE,
    NEW,
    Row,
    query_rows,
    slice_rows,
    zero_shot_rows,
)
from tasks.pages.text import ARROWS, shown_retention
from tasks.registry.files import champion_model
from tasks.registry.tracking import log_results
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_link, publish_table
from tasks.runtime.progress import progress
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation
from tasks.runtime.stage import stage
from tasks.training.base_weights import base_weights
from tasks.validation.accepted import split_index
from tasks.validation.inputs import index_input

if TYPE_CHECKING:
    from model.concepts.mining import Phrases
    from model.pairs.index import PairIndex
    from tasks.evaluation.measure import Embedded, Judgement
    from tasks.evaluation.questions import Questions

KEYWORDS = {"keyword": "keywords → image"}
RANKS = (1, 5, 10)


@stage("evaluate", Evaluation)
def evaluate(run: Run, validation: Validation, model: TrainedModel) -> Evaluation:
    """Ask a model, the champion and the base weights the same questions; write figures, pictures
    and gallery.

    Raises:
        CheckpointError: a model folder is damaged.
        DataError: test has no accepted pair.
        ServiceError: the registry does not answer.
    """
    from model.storage.sealed import weights_sha256
    from tasks.evaluation.measure import judge_model
    from tasks.evaluation.questions import make_questions, write_candidates
    from tasks.training.concepts import keyword_phrases

    test, settings = split_index(run, validation, "test"), run.config.evaluate
    phrases = keyword_phrases(run, validation)
    questions = make_questions(test, phrases, settings, run.config.seed)
    for note in questions.notes:
        run_logger().warning("%s", note)
    folders = _folders(run, model)
    embeddings, judged = {}, {}
    for name, model_embeddings in _embed_all(run, validation, test, folders, questions):
        judged[name] = judge_model(model_embeddings, questions, settings, run.config.seed)
        embeddings[name] = (model_embeddings.texts, model_embeddings.images)
    folder = run.folder / "evaluate"
    figures = _figures(run, questions, judged)
    pictures = _show(run, test, questions, embeddings, judged, phrases)
    table = {
        name: each.results["full"].to_json() | {"keywords": each.keywords}
        for name, each in judged.items()
    }
    _write(folder / FIGURES_FILE, json.dumps(figures, indent=1, ensure_ascii=False).encode())
    _write(folder / "rank_at_k.json", json.dumps(table, indent=2).encode())
    candidates = write_candidates(test, questions, run.config.seed, folder)
    metrics = {name: each.metrics() for name, each in judged.items()}
    evaluation = Evaluation(
        metrics=metrics[NEW],
        base_metrics=metrics[BASE],
        champion_metrics=metrics.get(CHAMPION),
        base_weights_sha256=weights_sha256(folders[BASE]),
        table=folder / "rank_at_k.json",
        figures=folder / FIGURES_FILE,
        gallery=folder / "gallery.html",
        pictures=pictures,
        card=write_card(run, model, figures) if model.folder.is_relative_to(run.folder) else None,
        retention=model.retention,
    )
    _publish(run, evaluation, figures, [] if candidates is None else [candidates])
    return evaluation


def _folders(run: Run, model: TrainedModel) -> dict[str, Path]:
    """Return the model folders that are judged, by the name that tables have for them."""
    folders = {NEW: model.folder}
    champion = champion_model(run.config.registered_model)
    if champion is not None and champion.weights_sha256 != model.weights_sha256:
        folders[CHAMPION] = champion.folder
    return folders | {BASE: base_weights(run)}


def _embed_all(
    run: Run,
    validation: Validation,
    test: "PairIndex",
    folders: dict[str, Path],
    questions: "Questions",
) -> Iterator[tuple[str, "Embedded"]]:
    """Yield each model's embeddings of test's distinct captions and images, one pair of towers in memory at a time."""
    from functools import partial

    from model.embeddings.embed import embed_captions, embed_pairs
    from model.towers.folder import load_towers
    from tasks.evaluation.measure import Embedded

    related = questions.related
    with progress("evaluate", len(test) * len(folders), "pairs") as shown:
        for name, folder in folders.items():
            towers = load_towers(folder, run.config.device, run.config.precision)
            batch, workers = run.config.evaluate.batch_size, run.config.workers
            pairs = index_input(run, validation, "test", test, towers)
            text_ND, image_ND = embed_pairs(towers, pairs, batch, workers, on_rows=shown.advance)
            embed = partial(embed_captions, towers, batch_size=batch)
            yield name, Embedded(text_ND[related.caption_row], image_ND[related.image_row], embed)


def _figures(run: Run, questions: "Questions", judged: "dict[str, Judgement]") -> dict[str, Any]:
    """Return all that was measured, for `figures.json`."""
    from model.evaluation.queries import expected_precision

    images = len(questions.related.image_row)
    return {
        "config": run.config.name,
        "data_version": run.data.version,
        "seed": run.config.seed,
        "captions": len(questions.captions),
        "images": images,
        "notes": questions.notes,
        "queries": {
            name: {
                "queries": len(each.texts),
                "chance": expected_precision(each, images),
                "first": each.texts[:5],
            }
            for name, each in questions.queries.items()
        },
        "models": {name: each.to_json() for name, each in judged.items()},
    }


def _show(
    run: Run,
    test: "PairIndex",
    questions: "Questions",
    embeddings: dict[str, tuple[Any, Any]],
    judged: "dict[str, Judgement]",
    phrases: "Phrases",
) -> list[Path]:
    """Write the gallery and the pictures; return the pictures."""
    from tasks.pages.answers import gallery_queries
    from tasks.pages.gallery import gallery_html, gallery_png

    settings, folder = run.config.evaluate, run.folder / "evaluate"
    new = judged[NEW]
    worst = (
        (-new.results["full"].text_to_image.ranks)
        .argsort(kind="stable")[: settings.gallery_worst]
        .tolist()
    )
    chosen, worst_shown = (
        gallery_queries(test, questions.related, embeddings, rows, settings.block_rows, phrases)
        for rows in (_chosen(run, test, questions), worst)
    )
    title = f"{run.config.registered_model}: {run.config.name} on data version {run.data.short}"
    metrics = {name: each.results["full"].metrics() for name, each in judged.items()}
    _write(
        folder / "gallery.html",
        gallery_html(title, _subtitle(metrics[NEW]), chosen, worst_shown).encode(),
    )
    pictures = {
        folder / "rank_at_k.png": rank_chart(title, metrics),
        folder / "gallery.png": gallery_png(title, chosen),
    }
    if new.zero_shot:
        confusions = {
            column: (list(found["ensemble"].labels), found["ensemble"].confusion)
            for column, found in new.zero_shot.items()
        }
        pictures[folder / "confusion.png"] = confusion_chart(
            f"Zero-shot labels, {title}", confusions
        )
    for path, content in pictures.items():
        _write(path, content)
    return list(pictures)


def _chosen(run: Run, test: "PairIndex", questions: "Questions") -> list[int]:
    """Return the captions of the gallery: those of the lines that the config names, or some spread over test."""
    settings, captions = run.config.evaluate, len(questions.captions)
    if settings.gallery_lines:
        at = {
            int(caption): number
            for number, caption in enumerate(test.caption_hash[questions.related.caption_row])
        }
        by_line = {
            int(line): at[int(caption)]
            for line, caption in zip(test.line, test.caption_hash, strict=True)
        }
        missing = [line for line in settings.gallery_lines if line not in by_line]
        if missing:
            run_logger().warning(
                "evaluate.gallery_lines: no accepted pair in line %s", ", ".join(map(str, missing))
            )
        return list(
            dict.fromkeys(by_line[line] for line in settings.gallery_lines if line in by_line)
        )
    wanted = min(settings.gallery_queries, captions)
    return [place * (captions - 1) // max(wanted - 1, 1) for place in range(wanted)]


def _subtitle(metrics: dict[str, float]) -> str:
    from tasks.pages.answers import ANSWERS

    return (
        f"Captions of the test split with the first {ANSWERS} pictures of each model. "
        f"New model: text → image Rank@1 {metrics['text_to_image_rank_at_1']:.1%}, "
        f"mean recall {metrics['mean_recall']:.1%}."
    )


def rank_table(
    metrics: dict[str, float], base: dict[str, float], champion: dict[str, float] | None = None
) -> list[dict[str, str]]:
    """Return the Rank@K table that terminal, Prefect and README show: one row a direction and K, in percent."""
    has_keywords = "keyword_rank_at_1" in metrics
    models = {
        "base weights": base,
        **({} if champion is None else {"champion": champion}),
        "new model": metrics,
    }
    return [
        {
            "direction": arrow,
            "measure": f"Rank@{k}",
            "chance": f"{100 * metrics[f'{direction}_chance_at_{k}']:.1f}",
            **{
                name: f"{100 * values[f'{direction}_rank_at_{k}']:.1f}"
                for name, values in models.items()
            },
        }
        for direction, arrow in (ARROWS | (KEYWORDS if has_keywords else {})).items()
        for k in RANKS
    ]


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _publish(run: Run, evaluation: Evaluation, figures: dict[str, Any], more: list[Path]) -> None:
    """Put tables on Prefect's page, and metrics and files into the MLflow run."""
    metrics, retention = evaluation.metrics, evaluation.retention
    description = (
        f"Test split of data version {run.data.version}, in percent; ties count against the model."
    )
    if retention is not None:
        description += f" Retention: {shown_retention(retention)}."
    tables: dict[str, tuple[list[Row], str]] = {
        "rank-at-k": (
            rank_table(metrics, evaluation.base_metrics, evaluation.champion_metrics),
            description,
        ),
        "queries": (query_rows(figures), "Queries that many products answer, in percent."),
        "zero-shot": (zero_shot_rows(figures), "Labels by prompts, in percent."),
        "worst-slices": (
            slice_rows(figures, is_worst=True),
            "Slices below the rest by more than noise, in percent.",
        ),
    }
    for key, (rows, about) in tables.items():
        if rows:
            publish_table(rows, key=key, description=about)
    gallery = evaluation.gallery.as_uri()
    publish_link(gallery, text="Gallery", key="gallery", description="Captions and their top 5")
    logged = {f"test/{name}": value for name, value in metrics.items()}
    logged |= {f"test_base/{name}": value for name, value in evaluation.base_metrics.items()}
    logged |= {
        f"test_champion/{name}": value
        for name, value in (evaluation.champion_metrics or {}).items()
    }
    if retention is not None:
        logged |= {
            "retention/mean_recall_before": retention.before,
            "retention/mean_recall_after": retention.after,
        }
    cards = [] if evaluation.card is None else [evaluation.card]
    files = [
        evaluation.table,
        run.folder / "evaluate" / FIGURES_FILE,
        evaluation.gallery,
        *evaluation.pictures,
    ]
    files += [*more, *cards]
    log_results(run.mlflow_run_id, logged, files, "evaluation")
