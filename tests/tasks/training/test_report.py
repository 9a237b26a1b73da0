"""A training report shows what the spool of its stage holds, and nothing that it does not."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image

from tasks.registry.metric_log import SPOOL
from tasks.training.curves import POINTS, Series, _thinned, curves_png, read_series
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
    few, more = read_series(tmp_path), read_series(tmp_path) | {"mfu": Series([1], [0.5])}
    heights = [Image.open(BytesIO(curves_png("title", series))).height for series in (few, more)]
    assert heights[0] < heights[1], "a fourth panel begins a second row"


def test_the_table_of_epochs_marks_the_best_one_and_shows_percent(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    page = training_html("title", read_series(tmp_path), 2, b"", None, [])
    assert '<tr class="best"><td>2</td><td>4</td><td>50.0</td><td>25.0</td></tr>' in page
    assert page.count("<tr") == 3 and "image → text" not in page


def test_a_hostile_title_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    spool(tmp_path, 4)
    page = training_html(
        "<script>alert(1)</script>\x1b[31m", read_series(tmp_path), 1, b"", None, []
    )
    assert "<script>" not in page and "&lt;script&gt;" in page and "\x1b" not in page
