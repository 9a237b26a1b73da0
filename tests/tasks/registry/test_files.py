"""The champion stands beside a new model where it can be had; its lack is logged, stops nothing."""

import logging
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError, ServiceError
from tasks.registry import files
from tasks.runtime.records import TrainedModel, Version

VERSION = Version(name="shop", number=4, mlflow_run_id="")
MODEL = TrainedModel(folder=Path("folder"), weights_sha256="a", best_epoch=1, valid_mean_recall=0.5)


def registry(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, has_champion: bool = True
) -> None:
    def load(version: Version) -> TrainedModel:
        if error is not None:
            raise error
        return MODEL

    monkeypatch.setattr(
        files, "champion_origin", lambda name: ("data", VERSION) if has_champion else None
    )
    monkeypatch.setattr(files, "registered_model", load)


def test_the_champion_is_a_model_and_its_absence_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    registry(monkeypatch)
    assert files.champion_model("shop") == MODEL
    registry(monkeypatch, has_champion=False)
    assert files.champion_model("shop") is None


@pytest.mark.parametrize(
    "error", [CheckpointError("weights changed"), MlflowException("no file"), OSError("no file")]
)
def test_a_champion_whose_files_cannot_be_had_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    registry(monkeypatch, error)
    with caplog.at_level(logging.WARNING):
        assert files.champion_model("shop") is None
    assert "champion version 4 is not shown" in caplog.text


def test_a_registry_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registry(monkeypatch, ServiceError("away"))
    with pytest.raises(ServiceError):
        files.champion_model("shop")
