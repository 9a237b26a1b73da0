"""What was measured is reported as it was in tables, card and page; nothing foreign acts there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from flows.cli.evaluation import label_rows, query_score_rows, rank_rows
from model.config.load import RunConfig
from model.evaluation.slices import Slice
from tasks.evaluation.charts import confusion_chart
from tasks.evaluation.measure import ModelFigures
from tasks.evaluation.model_card import write_model_card
from tasks.evaluation.published_figures import published, published_tables
from tasks.evaluation.questions import Questions
from tasks.evaluation.report import report_version
from tasks.evaluation.tables import (
    MORE_MEASURES,
    audit_sentence,
    baseline_notes,
    protocol_rows,
    query_rows,
    read_figures,
    slice_rows,
    with_half,
    zero_shot_rows,
)
from tasks.pages.html import templates
from tasks.registry.metric_log import SPOOL
from tasks.runtime.records import (
    DataVersion,
    Decision,
    Evaluation,
    Run,
    SplitCounts,
    TrainedModel,
    Validation,
    Version,
)
from tests.runs import lineage
from tests.tasks.evaluated import EVIL, ask, measured_model, split
from tests.tasks.pages.test_gallery import Page, encoded


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Questions, ModelFigures, ModelFigures]:
    questions = ask(split(tmp_path_factory.mktemp("split")))
    return questions, measured_model(questions, 0.8), measured_model(questions, 50.0)


@pytest.fixture
def figures(
    measured: tuple[Questions, ModelFigures, ModelFigures], tmp_path: Path
) -> dict[str, Any]:
    questions, new, base = measured
    values = {
        "config": "tiny",
        "data_version": "d" * 32,
        "captions": 32,
        "images": 32,
        "notes": [EVIL],
        "queries": {
            name: {"queries": 3, "chance": 0.1, "first": [EVIL]} for name in questions.queries
        },
        "models": {"new model": new.to_json(), "base weights": base.to_json()},
    }
    (tmp_path / "figures.json").write_text(json.dumps(values))
    return read_figures(tmp_path / "figures.json")


def test_metrics_are_flat_names_of_the_figures_with_their_intervals(
    measured: tuple[Questions, ModelFigures, ModelFigures],
) -> None:
    metrics = measured[1].metrics()
    full = measured[1].results["full"]
    assert metrics["mean_recall"] == full.mean_recall
    assert metrics["text_to_image_rank_at_1"] == full.text_to_image.rank_at[1]
    for name in (
        "mean_recall",
        "101_mean_recall",
        "product_text_to_image_rank_at_1",
        "keyword_precision_at_1",
    ):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert {
        "field_ndcg_at_10",
        "colour_to_product_precision_at_10",
        "caption_recall_at_10",
    } <= metrics.keys()
    assert {
        "zero_shot_single_colour_accuracy",
        "zero_shot_ensemble_colour_macro_accuracy",
    } <= metrics.keys()
    assert metrics["text_to_image_audited_rank_at_1"] >= metrics["text_to_image_rank_at_1"]
    assert metrics["product_mean_recall"] >= metrics["mean_recall"]
    assert all(
        " " not in name and isinstance(value, int | float) for name, value in metrics.items()
    )


def test_a_protocol_has_a_row_a_measure_beside_chance_and_base_weights(
    figures: dict[str, Any],
) -> None:
    rows = protocol_rows(figures)
    assert [row["protocol"] for row in rows] == ["full"] * 7 + ["full, products"] * 7 + [
        "101 candidates"
    ] * 7
    found = figures["models"]["new model"]["protocols"]["full"]["text_to_image_rank_at_1"]
    assert rows[1] == {
        "protocol": "full",
        "direction": "text → image",
        "measure": "Rank@1",
        "chance": "3.1",
        "base weights": with_half(
            figures["models"]["base weights"]["protocols"]["full"]["text_to_image_rank_at_1"]
        ),
        "new model": with_half(found),
        "ties won": f"{100 * found['optimistic']:.1f}",
    }
    median = next(
        row for row in protocol_rows(figures, MORE_MEASURES) if row["measure"] == "median rank"
    )
    assert (
        float(median["new model"].split(" ±")[0]) < 5 < float(median["base weights"].split(" ±")[0])
    )


def test_the_half_of_an_interval_is_the_wider_one() -> None:
    assert with_half({"value": 0.274, "low": 0.25, "high": 0.29}) == "27.4 ± 2.4"


def test_queries_labels_and_the_audit_have_their_rows(figures: dict[str, Any]) -> None:
    rows = query_rows(figures)
    assert [row["score"] for row in rows[:4]] == ["P@1", "P@10", "nDCG@10", "MRR"]
    assert {row["queries"] for row in rows} >= {
        "concepts → image, 3",
        "captions → image, 3",
        "colour → product, 3",
    }
    labels = zero_shot_rows(figures)
    assert [row["labels"] for row in labels] == ["2", "4", "8"] and labels[0][
        "largest label"
    ] == "50.0"
    found = figures["models"]["new model"]["audit"]
    assert f"of {found['misses']} captions that miss" in audit_sentence(figures)


def test_the_name_of_protocol_101_says_how_many_have_fewer(figures: dict[str, Any]) -> None:
    fewer = {"text_to_image": [7, 1000], "image_to_text": [0, 1010]}
    rows = protocol_rows(figures | {"fewer_than_101": fewer})
    assert rows[-1]["protocol"] == "101 candidates (7 of 1,000 captions have fewer)"
    assert rows[0]["protocol"] == "full"


def test_what_is_worse_than_no_model_is_marked_noted_and_counted_by_the_gate(
    figures: dict[str, Any], measured: tuple[Questions, ModelFigures, ModelFigures]
) -> None:
    metrics = measured[1].metrics()
    (note,) = baseline_notes(metrics | {"zero_shot_ensemble_category_accuracy": 0.117})
    assert "zero_shot_ensemble_category_accuracy 11.7 < 50.0" in note
    found = figures["models"]["new model"]
    found["zero_shot"]["category"]["ensemble"]["accuracy"]["value"] = 0.117
    found["queries"]["category"]["precision_at_10"]["value"] = 0.0
    assert zero_shot_rows(figures)[0]["ensemble"].endswith(" ▾")
    rows = {(row["queries"], row["score"]): row for row in query_rows(figures)}
    category, caption = (
        rows[name]
        for name in (("category → product, 3", "P@10"), ("captions → image, 3", "MRR@10"))
    )
    assert category["new model"].endswith("▾") and category["chance"] == "50.0"
    assert not caption["new model"].endswith("▾") and caption["chance"] == "9.2"
    assert label_rows(figures)[0]["ensemble"].endswith("▾")
    (terminal,) = [row for row in query_score_rows(figures) if row["queries"] == "category"]
    assert terminal["@10"].endswith("▾") and terminal["chance"] == "50.0"


def test_the_worst_slices_are_those_below_the_rest_by_more_than_noise_widest_gap_first(
    figures: dict[str, Any],
) -> None:
    def made(name: str, gap: float, p: float) -> dict[str, Any]:
        return vars(Slice("colour", name, 1200, 0.5, 0.4, 0.6, gap, p))

    slices = [
        made("a", -0.1, 0.01),
        made("b", -0.3, 0.0004),
        made("c", -0.5, 0.2),
        made("d", 0.4, 0.001),
    ]
    for model in figures["models"].values():
        model["slices"] = slices
    rows = slice_rows(figures, is_worst=True)
    assert [(row["slice"], row["p"]) for row in rows] == [("b", "< 0.001"), ("a", "0.010")]
    assert (
        rows[0]["gap"] == "-30.0"
        and rows[0]["95 % interval"] == "40.0 to 60.0"
        and rows[0]["products"] == "1,200"
    )
    assert len(slice_rows(figures, is_worst=False)) == 4


def test_published_figures_stand_under_ours_where_task_and_protocol_are_ours(
    figures: dict[str, Any],
) -> None:
    assert not any("protocol 101" in title for title in published_tables(figures))
    # Of 32 pairs no query has 100 others; with some that have, those alone are compared.
    for model in figures["models"].values():
        model["of_101"] = dict.fromkeys(model["of_101"], 0.625)
    tables = published_tables(figures)
    rows = tables["text → image, protocol 101, %"]
    assert rows[0]["model"] == "ours" and {"FashionBERT", "Kaleido-BERT"} <= {
        row["model"] for row in rows
    }
    assert rows[0]["Rank@1"] == "62.5" and rows[0]["data set"] == "tiny"
    marqo = tables["text → image, protocol Marqo, %"]
    assert [row["data set"] for row in marqo] == ["tiny", *["KAGL"] * 4] and marqo[0][
        "AvgRecall"
    ] != ""
    assert not any("labels" in title for title in tables)
    assert "Marqo" not in str(
        published_tables(figures | {"models": without_queries(figures)}).keys()
    )


def without_queries(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: model | {"queries": {}} for name, model in figures["models"].items()}


def test_the_terminal_has_a_row_a_model_and_a_row_a_kind_of_query(figures: dict[str, Any]) -> None:
    rows = rank_rows(figures, "101")
    assert [row["model"] for row in rows[:2]] == ["new model", "base weights"] and len(
        rows
    ) == 3 * 2
    assert rows[0]["mean"] and not rows[0]["Rank@1"] and rows[2]["Rank@1"] and not rows[2]["mean"]
    assert {row["queries"]: row["nDCG@10"] == "" for row in query_score_rows(figures)} == {
        "concepts → image": False,
        "fields → image": False,
        "captions → image": True,
        **dict.fromkeys(("category", "subcategory", "colour"), True),
    }
    assert [row["labels"] for row in label_rows(figures)] == ["2", "4", "8"]


def test_every_published_figure_has_a_source_and_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "published.md").read_text(encoding="utf-8")
    assert len(published()) > 50
    for each in published():
        assert each.url.startswith("https://") and each.source and each.table
        assert all(0 < value <= 100 for value in each.figures.values())
        digits = 2 if each.protocol == "101" else 1
        shown = " | ".join(f"{value:.{digits}f}" for value in each.figures.values())
        line = next(
            line
            for line in page.splitlines()
            if f"| {each.model} | {each.data_set} |" in line and shown in line
        )
        assert each.url in line and each.table in line


def run_in(folder: Path) -> Run:
    config = RunConfig.model_validate({"name": "tiny"})
    data = DataVersion(folder=folder, version="d" * 32, is_tracked=False, file_md5={})
    return Run(config=config, data=data, lineage=lineage(), folder=folder, mlflow_run_id="")


def test_the_model_card_has_a_yaml_head_that_a_hub_understands(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    for model in figures["models"].values():
        model["slices"] = [vars(Slice("colour", EVIL, 5, 0.5, 0.4, 0.6, -0.2, 0.01))]
    model = TrainedModel(
        folder=tmp_path, weights_sha256="a" * 64, best_epoch=3, valid_mean_recall=0.5
    )
    text = write_model_card(run_in(tmp_path), model, figures).read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    (result,) = values["model-index"][0]["results"]
    assert values["library_name"] == "open_clip" and result["dataset"]["revision"] == "d" * 32
    found = figures["models"]["new model"]["protocols"]["full"]
    assert result["metrics"][0]["value"] == round(found["mean_recall"]["value"], 5)
    assert "| full | text → image | Rank@1 |" in body and "a" * 64 in body
    assert "<b>" not in body and "\x1b" not in body and r"&lt;b&gt;\|" in body
    assert str(tmp_path) not in text


def evaluation_in(folder: Path) -> Evaluation:
    metrics = {"mean_recall": 0.5, "mean_recall_low": 0.4, "mean_recall_high": 0.6}
    pictures = [folder / name for name in ("rank_at_k.png", "confusion.png", "gallery.png")]
    for picture in pictures:
        picture.write_bytes(encoded(file_format="PNG"))
    return Evaluation(
        metrics=metrics,
        base_metrics=metrics,
        champion_metrics=metrics,
        base_weights_sha256="",
        figures=folder / "figures.json",
        gallery=folder / "gallery.html",
        pictures=pictures,
    )


def test_the_report_of_a_version_is_one_page_that_loads_and_runs_nothing(
    figures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked: list[str] = []
    monkeypatch.setattr(
        "tasks.evaluation.report.publish_link", lambda link, **_: linked.append(link)
    )
    monkeypatch.setattr("tasks.evaluation.report.attach", lambda *_: None)
    (tmp_path / "finetune").mkdir()
    measured = {"kind": "step", "step": 1, "time_ms": 0, "values": {"finetune/loss": 4.5}}
    (tmp_path / "finetune" / SPOOL).write_text(json.dumps(measured) + "\n")
    counts = SplitCounts(
        name="test",
        lines=32,
        accepted=32,
        quarantined=0,
        faults={EVIL: 3},
        repeats={},
        leaks={},
        leaked=0,
    )
    validation = Validation(profiles=tmp_path, docs=tmp_path, counts=[counts], expectations=22)
    version = Version(name="shop", number=7, mlflow_run_id="")
    decision = Decision(version=7, is_promoted=True, aliases=["champion"], reason=f"better {EVIL}")
    path = report_version(run_in(tmp_path), validation, evaluation_in(tmp_path), version, decision)
    page = path.read_text(encoding="utf-8")
    assert linked == [path.as_uri()]
    shown = Page(page)
    for text in (
        "shop version 7",
        "promoted",
        "better",
        "22 met",
        "101 candidates",
        "Curves of finetune",
        "Config",
    ):
        assert text in shown.text
    assert (
        "<b>" not in page
        and "<script" not in page
        and "\x1b" not in page
        and str(tmp_path) not in page
    )
    sources = [attributes.get("src") or "" for tag, attributes in shown.tags if tag == "img"]
    assert len(sources) == 3 and all(
        source.startswith("data:image/png;base64,") for source in sources
    )
    assert {attributes.get("href") for tag, attributes in shown.tags if tag == "a"} == {
        "gallery.html"
    }


def test_a_table_s_cells_are_escaped_and_no_rows_are_none() -> None:
    tables: Any = templates().get_template("tables.html.jinja").module
    assert "&lt;b&gt;" in tables.table([{EVIL: EVIL}]) and "<b>" not in tables.table([{EVIL: EVIL}])
    assert "None" in tables.table([])


def test_labels_of_any_kind_are_drawn() -> None:
    labels = [EVIL, "裙子" * 20, "$", *map(str, range(30))]
    picture = confusion_chart(
        "title",
        {"colour": (labels, 3 * diagonal_counts(len(labels))), "b": (["x"], diagonal_counts(1))},
    )
    assert picture.startswith(b"\x89PNG")


def diagonal_counts(labels: int) -> npt.NDArray[np.int64]:
    return np.eye(labels, dtype=np.int64)
