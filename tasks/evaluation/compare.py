"""Ask several models the same questions about test; write figures, charts and gallery.

One pair of towers is in memory at a time; all models' embeddings of test stay until the gallery is
drawn. Imports torch.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from model.concepts.mining import Phrases
from model.embeddings.embed import embed_captions, embed_pairs
from model.evaluation.queries import expected_scores
from model.pairs.index import PairIndex
from model.pairs.splits import find_split_files
from model.storage.files import atomic_write
from model.towers.folder import load_towers
from tasks.evaluation.charts import confusion_chart, rank_chart
from tasks.evaluation.measure import FULL, ModelEmbeddings, ModelFigures, measure_model
from tasks.evaluation.questions import (
    Questions,
    fewer_than_101,
    make_questions,
    read_labels,
    write_candidates,
)
from tasks.evaluation.tables import FIGURES_FILE, NEW, Figures, baseline_notes
from tasks.pages.answers import ANSWERS, gallery_queries
from tasks.pages.gallery import gallery_html, gallery_png
from tasks.runtime.log import run_logger
from tasks.runtime.progress import progress
from tasks.runtime.records import Run, Validation
from tasks.training.concepts import keyword_phrases
from tasks.validation.accepted import split_index
from tasks.validation.inputs import index_input

GALLERY_FILE = "gallery.html"


@dataclass(frozen=True)
class Comparison:
    """What models answered: metrics by model, all figures, and the files that were written."""

    metrics: dict[str, dict[str, float]]
    figures: Figures
    pictures: list[Path]
    candidates: Path | None


def compare_models(run: Run, validation: Validation, folders: dict[str, Path]) -> Comparison:
    """Ask the models of some folders, by the names that tables have for them.

    Raises:
        CheckpointError: a model folder is damaged.
        DataError: test has no accepted pair.
    """
    test, phrases = split_index(run, validation, "test"), keyword_phrases(run, validation)
    settings, seed, batch = run.config.evaluate, run.config.seed, run.config.evaluate.batch_size
    train = find_split_files(run.data.folder).train
    labels = read_labels(train, settings.label_columns)
    questions = make_questions(test, phrases, settings, seed, labels)
    for note in questions.notes:
        run_logger().warning("%s", note)

    # Pairs are embedded as they are read; questions ask about distinct captions and images.
    embeddings, measured, related = {}, {}, questions.related
    with progress("evaluate", len(test) * len(folders), "pairs") as bar:
        for name, model_folder in folders.items():
            towers = load_towers(model_folder, run.config.device, run.config.precision)
            pairs = index_input(run, validation, "test", test, towers)
            text_ND, image_ND = embed_pairs(
                towers, pairs, batch, run.config.workers, on_rows=bar.advance
            )
            text_QD, image_CD = text_ND[related.caption_row], image_ND[related.image_row]
            embed = partial(embed_captions, towers, batch_size=batch)
            asked = ModelEmbeddings(text_QD, image_CD, embed)
            measured[name] = measure_model(asked, questions, settings, seed)
            embeddings[name] = (text_QD, image_CD)

    # What is worse than no model at all is told, wherever the figures are.
    questions.notes.extend(notes := baseline_notes(measured[NEW].metrics()))
    for note in notes:
        run_logger().warning("%s", note)

    folder = run.folder / "evaluate"
    figures = _figures(run, questions, measured)
    files = _draw(run, test, questions, embeddings, measured, phrases)
    files[FIGURES_FILE] = json.dumps(figures, indent=1, ensure_ascii=False).encode()
    for file_name, content in files.items():
        with atomic_write(folder / file_name) as file:
            file.write(content)
    return Comparison(
        metrics={name: each.metrics() for name, each in measured.items()},
        figures=figures,
        pictures=[folder / file_name for file_name in files if file_name.endswith(".png")],
        candidates=write_candidates(test, questions, seed, folder),
    )


def _figures(run: Run, questions: Questions, measured: dict[str, ModelFigures]) -> Figures:
    """Collect all that was measured, for `figures.json`."""
    images = len(questions.related.image_row)
    return {
        "config": run.config.name,
        "data_version": run.data.version,
        "seed": run.config.seed,
        "captions": len(questions.captions),
        "images": images,
        "notes": questions.notes,
        "fewer_than_101": fewer_than_101(questions.candidates),
        # The first texts let a person see what was asked.
        "queries": {
            name: {
                "queries": len(each.texts),
                "chance": expected_scores(each, images)["precision_at_1"],
                "first": each.texts[:5],
            }
            for name, each in questions.queries.items()
        },
        "models": {name: each.to_json() for name, each in measured.items()},
    }


def _draw(
    run: Run,
    test: PairIndex,
    questions: Questions,
    embeddings: dict[str, tuple[Any, Any]],
    measured: dict[str, ModelFigures],
    phrases: Phrases,
) -> dict[str, bytes]:
    """Draw the gallery and the charts, by the names of their files."""
    settings, new = run.config.evaluate, measured[NEW]
    last_first = (-new.results[FULL].text_to_image.ranks).argsort(kind="stable")
    chosen, worst = (
        gallery_queries(test, questions.related, embeddings, rows, settings.block_rows, phrases)
        for rows in (
            choose_captions(run, test, questions),
            last_first[: settings.gallery_worst].tolist(),
        )
    )

    title = f"{run.config.registered_model}: {run.config.name} on data version {run.data.short}"
    metrics = {name: each.results[FULL].metrics() for name, each in measured.items()}
    subtitle = (
        f"Captions of the test split with the first {ANSWERS} images of each model. "
        f"New model: text → image Rank@1 {metrics[NEW]['text_to_image_rank_at_1']:.1%}, "
        f"mean recall {metrics[NEW]['mean_recall']:.1%}."
    )
    files = {
        GALLERY_FILE: gallery_html(title, subtitle, chosen, worst).encode(),
        "rank_at_k.png": rank_chart(title, metrics),
        "gallery.png": gallery_png(title, chosen),
    }
    if new.zero_shot:
        confusions = {
            column: (list(found["ensemble"].labels), found["ensemble"].confusion)
            for column, found in new.zero_shot.items()
        }
        files["confusion.png"] = confusion_chart(f"Zero-shot labels, {title}", confusions)
    return files


def choose_captions(run: Run, test: PairIndex, questions: Questions) -> list[int]:
    """Choose the captions of the gallery: those that the config names, or some spread over test."""
    settings, captions = run.config.evaluate, len(questions.captions)
    if not settings.gallery_lines:
        wanted = min(settings.gallery_queries, captions)
        return [place * (captions - 1) // max(wanted - 1, 1) for place in range(wanted)]

    # The config names lines of the TSV; several of them may bear one caption.
    hashes = test.caption_hash[questions.related.caption_row]
    at = {int(caption): number for number, caption in enumerate(hashes)}
    by_line = {
        int(line): at[int(caption)]
        for line, caption in zip(test.line, test.caption_hash, strict=True)
    }
    missing = [str(line) for line in settings.gallery_lines if line not in by_line]
    if missing:
        run_logger().warning(
            "evaluate.gallery_lines: no accepted pair in line %s", ", ".join(missing)
        )
    return list(dict.fromkeys(by_line[line] for line in settings.gallery_lines if line in by_line))
