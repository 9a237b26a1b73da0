"""The embedded default, as a person meets it first: one command, no server, nothing in HOME."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Shell

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def first(shell: Shell, miniature_config: Path, miniature: Path) -> str:
    """What the first retraining printed."""
    done = shell.flows("retrain", "--config", miniature_config, "--data", miniature)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_retraining_prints_its_table_and_where_everything_lies(first: str, shell: Shell) -> None:
    assert "commerce-clip version 1: Rank@K on test, %" in first
    assert [first.count(way) for way in ("text → image", "image → text", "keywords → image")] == [
        3,
        3,
        3,
    ]
    assert first.count("Rank@10") == 3
    for named in (
        "chance",
        "base weights",
        "first champion",
        "gallery.html",
        "embeddings",
        "make up",
    ):
        assert named in first
    assert (shell.state / "mlflow.db").is_file()


def test_a_second_retraining_finds_nothing_new(
    first: str, shell: Shell, miniature_config: Path, miniature: Path
) -> None:
    done = shell.flows("retrain", "--config", miniature_config, "--data", miniature)
    assert done.returncode == 0, done.stderr
    assert "nothing new: commerce-clip version 1" in done.stdout
    assert "Rank@1" not in done.stdout


@pytest.mark.full
def test_the_champion_loads_in_a_fresh_process(first: str, shell: Shell, miniature: Path) -> None:
    tracking = f"sqlite:///{shell.state / 'mlflow.db'}"
    split = miniature / "finetune" / "test.tsv"
    used = shell.use_champion(split, MLFLOW_TRACKING_URI=tracking)
    figures = json.loads(next(shell.state.glob("runs/*/evaluate/figures.json")).read_text())
    full = figures["models"]["new model"]["protocols"]["full"]
    assert used["rank_at_1"] == pytest.approx(full["text_to_image_rank_at_1"]["value"])
    assert used["norm_error"] < 1e-5


def test_nothing_is_written_to_home(first: str, shell: Shell) -> None:
    assert list(shell.home.rglob("*")) == []
