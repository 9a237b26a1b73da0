"""The flows of single stages, as the command line calls them, on two versions that the main job registered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.__main__ import main
from tasks.tracking import tracking_client
from tests.conftest import MINIATURE_SIZES

CONFIG = """
name: stages
registered_model: stages
workers: 0
model: {name: configs/models/tiny-vit.json}
pretrain: {epochs: 0}
finetune: {epochs: 1, batch_size: 16, lr: 1.0e-3, warmup_steps: 1}
evaluate: {gallery_queries: 2}
"""

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, miniature: Path, prefect_server: None) -> list[str]:
    """Two registered versions, and the options that name their config and data."""
    config = tmp_path_factory.mktemp("config") / "stages.yaml"
    config.write_text(CONFIG)
    chosen = ["--config", str(config), "--data", str(miniature)]
    assert main(["retrain", *chosen]) == 0
    assert main(["retrain", *chosen, "--set", "seed=1"]) == 0
    return chosen


@pytest.fixture
def printed(options: list[str], capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a stage and return the result that it printed."""

    def run(name: str, *more: str, takes_config: bool = True) -> Any:
        capsys.readouterr()
        assert main([name, *(options if takes_config else ["--registered-model", "stages"]), *more]) == 0
        output = capsys.readouterr().out
        return json.loads(output[output.index("{") :])

    return run


def test_evaluate_judges_a_registered_version_by_its_number(printed: Command) -> None:
    evaluation = printed("evaluate", "--version", "1")
    assert 0 <= evaluation["metrics"]["mean_recall"] <= 1
    assert 0 <= evaluation["metrics"]["keyword_mean_recall"] <= 1
    assert Path(evaluation["gallery"]).read_text().startswith("<!DOCTYPE html>")


def test_evaluate_gives_a_version_the_figures_that_its_own_run_reported(printed: Command) -> None:
    evaluation = printed("evaluate", "--version", "2")
    tags = tracking_client().get_model_version("stages", "2").tags
    assert f"{evaluation['metrics']['mean_recall']:.6f}" == tags["commerce_clip.test_mean_recall"]


def test_export_writes_the_embeddings_of_a_version(printed: Command) -> None:
    export = printed("export", "--version", "2")
    assert (export["lines"], export["rows"], export["faulty"]) == (MINIATURE_SIZES["test"], MINIATURE_SIZES["test"], 0)
    (path,) = export["files_written"]
    assert set(pq.read_table(path)["model_version"].to_pylist()) == {"stages/2"}


def test_validate_counts_every_line_of_every_split(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *options]) == 0
    cells = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    counts = {row[1]: row[2] for row in cells if len(row) > 3}
    assert {name: counts[name] for name in ("train", "valid", "test")} == {
        name: str(MINIATURE_SIZES[name]) for name in ("train", "valid", "test")
    }


def test_promotion_by_hand_and_rollback_move_the_champion_there_and_back(printed: Command) -> None:
    for number in ("1", "2"):
        printed("promote", "--version", number, "--reason", "looked", takes_config=False)
    assert printed("rollback", "--reason", "complaints", takes_config=False)["version"] == 1
    assert printed("rollback", takes_config=False)["version"] == 2


def test_a_stage_that_a_finished_run_contains_is_picked_up(printed: Command, options: list[str]) -> None:
    tuned = printed("finetune")
    assert tuned == printed("finetune")
    assert tuned["best_epoch"] == 1
