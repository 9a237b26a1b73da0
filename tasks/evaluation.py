"""Judge a model on the test split beside its base weights: Rank@K table, picture and gallery."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_link_artifact, create_table_artifact

from model.files import atomic_write
from tasks.answers import ANSWERS, gallery_queries
from tasks.inputs import index_input
from tasks.progress import progress
from tasks.records import Evaluation, Retention, Run, TrainedModel, Validation
from tasks.shown import ARROWS, shown_retention
from tasks.splits import split_index
from tasks.stage import stage
from tasks.tracking import log_results
from tasks.training import base_weights

if TYPE_CHECKING:
    from model.dataset import PairIndex
    from model.keywords import KeywordQueries
    from model.retrieval import RelevantPairs

KEYWORDS = {"keyword": "keywords → image"}
RANKS = (1, 5, 10)
BAR_WIDTH = 0.28
COLOURS = ("#1d6b52", "#9db3aa", "#d8d2c4")


@stage("evaluate", Evaluation)
def evaluate(run: Run, validation: Validation, model: TrainedModel) -> Evaluation:
    """Measure Rank@K of a model and of its base weights on test, exactly; write table, picture and gallery.

    Raises:
        CheckpointError: a model folder is damaged.
        DataError: test has no accepted pair.
    """
    from model.keywords import keyword_queries
    from model.retrieval import evaluate_retrieval, relate
    from model.sealed import weights_sha256
    from tasks.concepts import keyword_phrases
    from tasks.gallery import gallery_html, gallery_png

    test = split_index(run, validation, "test")
    related = relate(test.caption_hash.tolist(), test.image_hash.tolist())
    folders = {"new model": model.folder, "base weights": base_weights(run)}
    captions = [test.caption(int(row)) for row in related.caption_row]
    typed = keyword_queries(captions, related, keyword_phrases(run, validation))
    embeddings, typed_QD = _embed_all(run, validation, test, folders, related, typed)
    block_rows = run.config.evaluate.block_rows
    results = {name: evaluate_retrieval(*both, related, block_rows) for name, both in embeddings.items()}
    keywords = {name: typed.metrics(typed_QD[name], image_CD, block_rows) for name, (_, image_CD) in embeddings.items()}
    wanted = min(run.config.evaluate.gallery_queries, len(related.caption_row))
    chosen = [place * (len(related.caption_row) - 1) // max(wanted - 1, 1) for place in range(wanted)]
    queries = gallery_queries(test, related, embeddings, chosen, block_rows)
    folder = run.folder / "evaluate"
    title = f"{run.config.registered_model}: {run.config.name} on data version {run.data.short}"
    table = {name: result.to_json() | {"keywords": keywords[name]} for name, result in results.items()}
    files = {
        folder / "rank_at_k.json": json.dumps(table, indent=2).encode(),
        folder / "gallery.html": gallery_html(title, _subtitle(results["new model"].metrics()), queries).encode(),
        folder / "gallery.png": gallery_png(title, queries),
        folder / "rank_at_k.png": rank_chart(title, {name: r.metrics() for name, r in results.items()}),
    }
    for path, content in files.items():
        with atomic_write(path) as file:
            file.write(content)
    metrics, base = (results[name].metrics() | keywords[name] for name in folders)
    _publish(run, metrics, base, model.retention, list(files))
    return Evaluation(
        metrics=metrics,
        base_metrics=base,
        base_weights_sha256=weights_sha256(folders["base weights"]),
        table=folder / "rank_at_k.json",
        gallery=folder / "gallery.html",
        pictures=[folder / "rank_at_k.png", folder / "gallery.png"],
        retention=model.retention,
    )


def _embed_all(
    run: Run,
    validation: Validation,
    test: "PairIndex",
    folders: dict[str, Path],
    related: "RelevantPairs",
    typed: "KeywordQueries",
) -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Return each model's embeddings of test's distinct captions [Q, D] and images [C, D], and of keyword queries."""
    from model.embed import embed_captions, embed_pairs
    from model.towers import load_towers

    embeddings, typed_QD = {}, {}
    with progress("evaluate", len(test) * len(folders), "pairs") as shown:
        for name, folder in folders.items():
            towers = load_towers(folder, run.config.device, run.config.precision)
            batch, workers = run.config.evaluate.batch_size, run.config.workers
            pairs = index_input(run, validation, "test", test, towers)
            text_ND, image_ND = embed_pairs(towers, pairs, batch, workers, on_rows=shown.advance)
            embeddings[name] = text_ND[related.caption_row], image_ND[related.image_row]
            typed_QD[name] = embed_captions(towers, list(typed.texts), batch)
    return embeddings, typed_QD


def _subtitle(metrics: dict[str, float]) -> str:
    return (
        f"Captions of the test split with the first {ANSWERS} pictures of each model. "
        f"New model: text → image Rank@1 {metrics['text_to_image_rank_at_1']:.1%}, "
        f"mean recall {metrics['mean_recall']:.1%}."
    )


def rank_table(metrics: dict[str, float], base: dict[str, float]) -> list[dict[str, str]]:
    """Return the Rank@K table that terminal, Prefect and README show: one row a direction and K, in percent."""
    has_keywords = "keyword_rank_at_1" in metrics
    return [
        {
            "direction": arrow,
            "measure": f"Rank@{k}",
            "chance": f"{100 * metrics[f'{direction}_chance_at_{k}']:.1f}",
            "base weights": f"{100 * base[f'{direction}_rank_at_{k}']:.1f}",
            "new model": f"{100 * metrics[f'{direction}_rank_at_{k}']:.1f}",
        }
        for direction, arrow in (ARROWS | (KEYWORDS if has_keywords else {})).items()
        for k in RANKS
    ]


def rank_chart(title: str, metrics: dict[str, dict[str, float]]) -> bytes:
    """Return a PNG of Rank@K by direction: a bar a model, and one for chance."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (direction, arrow) in zip(panels, ARROWS.items(), strict=True):
        series = {name: [values[f"{direction}_rank_at_{k}"] for k in RANKS] for name, values in metrics.items()}
        series["chance"] = [next(iter(metrics.values()))[f"{direction}_chance_at_{k}"] for k in RANKS]
        for number, (name, shares) in enumerate(series.items()):
            places = [place + BAR_WIDTH * (number - 1) for place in range(len(RANKS))]
            bars = panel.bar(places, [100 * share for share in shares], BAR_WIDTH, label=name, color=COLOURS[number])
            panel.bar_label(bars, fmt="%.1f", fontsize=8)
        panel.set_xticks(range(len(RANKS)), [f"Rank@{k}" for k in RANKS])
        panel.set_title(arrow)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("% of queries")
    panels[0].legend(frameon=False, loc="upper left")
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _publish(
    run: Run, metrics: dict[str, float], base: dict[str, float], retention: Retention | None, files: list[Path]
) -> None:
    description = f"Test split of data version {run.data.version}, in percent; ties count against the model."
    if retention is not None:
        description += f" Retention: {shown_retention(retention)}."
    create_table_artifact(rank_table(metrics, base), key="rank-at-k", description=description)
    gallery = next(path for path in files if path.name == "gallery.html")
    create_link_artifact(gallery.as_uri(), link_text="Gallery", key="gallery", description="Captions and their top 5")
    logged = {f"test/{name}": value for name, value in metrics.items()}
    logged |= {f"test_base/{name}": value for name, value in base.items()}
    if retention is not None:
        logged |= {"retention/mean_recall_before": retention.before, "retention/mean_recall_after": retention.after}
    log_results(run.mlflow_run_id, logged, files, "evaluation")
