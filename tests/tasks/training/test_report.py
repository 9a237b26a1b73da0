"""A training report shows what the spool of its stage holds, and nothing that it does not."""

import json
from pathlib import Path

from tasks.registry.metric_log import SPOOL
from tasks.training.curves import POINTS, Series, _thinned, read_series, stage_panels
from tasks.training.report import training_html


def spool(folder: Path, steps: int) -> None:
    """Write what a stage of two epochs leaves."""
    lines = [
        {
            "kind": "step",
            "step": step,
            "time_ms": 0,
            "values": {"finetune/loss": 1 / step, "finetune/lr": 0.1},
        }
        for step in range(1, steps + 1)
    ]
    for epoch, recall in ((1, 0.25), (2, 0.5)):
        values = {
            "finetune/valid_mean_recall": recall,
            "finetune/valid_text_to_image_rank_at_1": recall / 2,
        }
        lines.append({"kind": "epoch", "step": epoch * steps // 2, "time_ms": 0, "values": values})
    (folder / SPOOL).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_series_are_read_by_metric_with_their_steps(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    series = read_series(tmp_path)
    assert series["loss"] == Series([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4])
    assert series["valid_mean_recall"] == Series([2, 4], [0.25, 0.5])


def test_a_long_curve_is_thinned_to_means_and_ends_at_its_last_step() -> None:
    steps = list(range(1, 10 * POINTS + 4))
    thin = _thinned(Series(steps, [float(step) for step in steps]))
    assert (
        len(thin.steps) <= POINTS
        and thin.steps[-1] == steps[-1]
        and thin.values[0] == sum(range(1, 12)) / 11
    )


def test_curves_have_a_panel_for_what_was_measured_alone(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    series = read_series(tmp_path)
    titles = [panel.title for panel in stage_panels(series | {"tflops_per_s": Series([1], [0.5])})]
    assert titles == ["loss by term", "valid, % of queries", "learning rate", "TFLOP/s"]


def test_the_page_holds_every_value_of_a_curve_as_text(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    page = training_html("title", read_series(tmp_path), 2, None, [])
    assert "step 3: loss 0.3333" in page, "under the pointer"
    assert "<td>3</td><td>0.3333</td>" in page, "in the table below"


def test_the_table_of_epochs_marks_the_best_one_and_shows_percent(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    page = training_html("title", read_series(tmp_path), 2, None, [])
    assert '<tr class="best"><td>2</td><td>4</td><td>50.0</td><td>25.0</td></tr>' in page
    epochs = page.partition("<h2>Epochs</h2>")[2]
    assert epochs.count("<tr") == 3 and "image → text" not in page


def test_a_hostile_title_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    page = training_html("<script>alert(1)</script>\x1b[31m", read_series(tmp_path), 1, None, [])
    assert "<script>" not in page and "&lt;script&gt;" in page and "\x1b" not in page
