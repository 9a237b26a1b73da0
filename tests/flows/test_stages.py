"""The flows of single stages, called from the command line, on two versions of the main job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.__main__ import main
from tasks.registry.tracking import tracking_client
from tasks.runtime.environment import state_folder
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
def options(
    tmp_path_factory: pytest.TempPathFactory, miniature: Path, prefect_server: None
) -> list[str]:
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
        assert (
            main([name, *(options if takes_config else ["--registered-model", "stages"]), *more])
            == 0
        )
        output = capsys.readouterr().out
        return json.loads(output[output.index("{") :])

    return run


@pytest.fixture
def evaluated(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Evaluate a version and return what was printed, and the folder of its files."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(number: str, *more: str) -> tuple[str, Path]:
        capsys.readouterr()
        assert main(["evaluate", *options, "--version", number, *more]) == 0
        (folder,) = state_folder().glob(f"evaluations/stages-v{number}-*/evaluate")
        return capsys.readouterr().out, folder

    return run


def test_evaluate_judges_a_registered_version_by_its_number_beside_published_figures(
    evaluated: Command,
) -> None:
    printed, folder = evaluated("1", "--protocol", "full,101", "--compare", "published")
    for said in (
        "101 candidates",
        "fields → image",
        "Zero-shot labels",
        "Marqo-FashionSigLIP",
        "false negatives: text → image",
    ):
        assert said in printed
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert 0 <= metrics["101_mean_recall"] <= 1 and 0 <= metrics["keyword_mean_recall"] <= 1
    for page in ("report.html", "gallery.html"):
        assert (folder / page).read_text().startswith("<!DOCTYPE html>")
    assert "put to the gate" in (folder / "report.html").read_text()
    assert pq.read_table(folder / "candidates-101.parquet").num_rows == 2 * MINIATURE_SIZES["test"]


def test_evaluate_gives_a_version_the_figures_that_its_own_run_reported(evaluated: Command) -> None:
    printed, folder = evaluated("2")
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    tags = tracking_client().get_model_version("stages", "2").tags
    assert f"{metrics['mean_recall']:.6f}" == tags["commerce_clip.test_mean_recall"]
    assert "Published" not in printed


def test_a_retraining_leaves_report_and_model_card(options: list[str]) -> None:
    (run, *_) = sorted(state_folder().glob("runs/stages-*"))
    result = json.loads((run / "evaluate" / "result.json").read_text())
    assert Path(result["card"]).read_text().startswith("---\nlibrary_name: open_clip\n")
    report = (run / "evaluate" / "report.html").read_text()
    assert "Decision: version" in report and "mean recall" in report


def test_an_unknown_protocol_is_one_sentence(
    options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *options, "--protocol", "full,1001"]) == 1
    assert "evaluate.protocols.1 is '1001'" in capfd.readouterr().err


def test_export_writes_the_embeddings_of_a_version(printed: Command) -> None:
    export = printed("export", "--version", "2")
    assert (export["lines"], export["rows"], export["faulty"]) == (
        MINIATURE_SIZES["test"],
        MINIATURE_SIZES["test"],
        0,
    )
    (path,) = export["files_written"]
    assert set(pq.read_table(path)["model_version"].to_pylist()) == {"stages/2"}


def test_validate_counts_every_line_of_every_split(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *options]) == 0
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
    ]
    counts = {row[0]: row[1] for row in cells if len(row) > 2}
    assert {name: counts[name] for name in ("train", "valid", "test")} == {
        name: str(MINIATURE_SIZES[name]) for name in ("train", "valid", "test")
    }


def test_promotion_by_hand_and_rollback_move_the_champion_there_and_back(printed: Command) -> None:
    for number in ("1", "2"):
        printed("promote", "--version", number, "--reason", "looked", takes_config=False)
    assert printed("rollback", "--reason", "complaints", takes_config=False)["version"] == 1
    assert printed("rollback", takes_config=False)["version"] == 2


def test_a_stage_that_a_finished_run_contains_is_picked_up(
    printed: Command, options: list[str]
) -> None:
    tuned = printed("finetune")
    assert tuned == printed("finetune")
    assert tuned["best_epoch"] == 1
