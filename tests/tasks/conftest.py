"""A state folder with its own MLflow, and a run with an untrained model in it, for tests of single tasks."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model.config.load import RunConfig
from tasks.runtime.environment import ROOT
from tasks.runtime.records import DataVersion, Evaluation, Run, TrainedModel, Validation
from tests.runs import lineage

if TYPE_CHECKING:
    from tests.tasks.shop import Shop

METRICS = {
    f"{d}_{m}": 0.5
    for d in ("text_to_image", "image_to_text")
    for m in ("rank_at_1", "median_rank")
}


@pytest.fixture(scope="session")
def service_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def state(service_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One MLflow database for all tests of a session: making one takes seconds."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(service_state))
    return service_state


@pytest.fixture
def config(request: pytest.FixtureRequest) -> RunConfig:
    """A config whose registered model belongs to the test alone."""
    name = request.node.name.replace("_", "-").split("[")[0][:60]
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "registered_model": name,
            "model": {"name": str(ROOT / "configs/models/tiny-vit.json")},
        }
    )


@pytest.fixture
def data(miniature: Path) -> DataVersion:
    return DataVersion(folder=miniature, version="d" * 32, is_tracked=False, file_md5={})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """An untrained model folder."""
    from model.config.sections import ModelConfig
    from model.storage.sealed import weights_sha256
    from model.towers.create import create_towers
    from model.towers.folder import save_towers

    folder = tmp_path_factory.mktemp("weights") / "best"
    save_towers(
        create_towers(ModelConfig(name=str(ROOT / "configs/models/tiny-vit.json")), "cpu"), folder
    )
    return TrainedModel(
        folder=folder, weights_sha256=weights_sha256(folder), best_epoch=1, valid_mean_recall=0.1
    )


@pytest.fixture
def validation(tmp_path: Path) -> Validation:
    return Validation(profiles=tmp_path, docs=tmp_path, counts=[], expectations=5)


@pytest.fixture
def shop(
    config: RunConfig,
    data: DataVersion,
    state: Path,
    tmp_path: Path,
    weights: TrainedModel,
    validation: Validation,
    monkeypatch: pytest.MonkeyPatch,
) -> "Shop":
    from tests.tasks.shop import Shop

    return Shop(config, data, tmp_path, weights, validation, monkeypatch)


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Data Docs unwritten: they take most of the time of a judgement of a few lines."""
    monkeypatch.setattr(
        "great_expectations.data_context.EphemeralDataContext.build_data_docs",
        lambda self, site_names: None,
    )


def evaluation_of(folder: Path, mean_recall: float, base: float = 0.01) -> Evaluation:
    return Evaluation(
        metrics=METRICS | {"mean_recall": mean_recall},
        base_metrics=METRICS | {"mean_recall": base},
        base_weights_sha256="0" * 64,
        figures=folder,
        gallery=folder,
        pictures=[],
    )


def run_of(config: RunConfig, data: DataVersion, folder: Path, fingerprint: str) -> Run:
    from tasks.registry.tracking import begin_mlflow_run, tracking_client

    run_id = begin_mlflow_run(tracking_client(), fingerprint, fingerprint, {}, {})
    return Run(
        config=config,
        data=data,
        lineage=lineage(fingerprint),
        folder=folder / fingerprint,
        mlflow_run_id=run_id,
    )
