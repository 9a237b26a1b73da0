"""The main job hands on what it has computed once."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from flows import retrain as main_job
from model.storage.files import file_digest
from tasks.runtime.environment import ROOT
from tasks.runtime.lineage import lineage_tags
from tasks.runtime.records import DataVersion, Record, Run, TrainedModel
from tasks.runtime.stage import stage


class Evaluated(Exception):
    """The point at which all who ask for base weights have asked."""


@pytest.mark.usefixtures("prefect_server")
def test_a_run_hashes_its_base_weights_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    weights, hashed = tmp_path / "base.safetensors", Counter[Path]()
    weights.write_bytes(b"weights")
    trained = TrainedModel(folder=tmp_path, weights_sha256="", best_epoch=1, valid_mean_recall=0.0)

    def counted(path: Path) -> str:
        hashed[path] += 1
        return file_digest(path)

    def train(run: Run, *results: Record) -> TrainedModel:
        return trained

    def evaluate(run: Run, *results: Record) -> None:
        assert lineage_tags(run.config, run.data, run.lineage)["commerce_clip.base_weights"]
        raise Evaluated

    version = DataVersion(folder=tmp_path, version="v" * 32, is_tracked=False, file_md5={})
    monkeypatch.setattr("tasks.runtime.lineage.file_digest", counted)
    monkeypatch.setattr("tasks.run.begin_mlflow_run", lambda *_: "run")
    monkeypatch.setattr("tasks.run.run_page", lambda _: None)
    monkeypatch.setattr(main_job, "materialise_data", lambda _: version)
    monkeypatch.setattr(main_job, "find_registered", lambda config, mark: None)
    monkeypatch.setattr(main_job, "tracked", nullcontext)
    monkeypatch.setattr(main_job, "validate", lambda run: trained)
    for name in ("pretrain", "finetune"):
        made = stage(name, TrainedModel, reads=("model", name))(train)
        monkeypatch.setattr(main_job, name, made)
    monkeypatch.setattr(main_job, "evaluate", evaluate)

    with pytest.raises(Evaluated):
        main_job.retrain(
            config=str(ROOT / "configs/sample.yaml"),
            overrides=[f"model.pretrained={weights}"],
        )
    assert hashed[weights] == 1
