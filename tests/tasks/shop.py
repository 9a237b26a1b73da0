"""A shop that registers versions with chosen test figures and promotes them, as a run does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.config.load import RunConfig
from model.evaluation.exchange import sources_of_luck
from model.evaluation.retrieval import RANK_AT, Direction, RetrievalResult, relate
from model.storage.sealed import WEIGHTS_FILE, sealed_folder, weights_sha256
from tasks.promotion import promote, scoring
from tasks.promotion.gate import Compared, Scored, SliceColumns
from tasks.registry import package, register, serving, versions
from tasks.registry.served_parts import Served
from tasks.registry.tracking import tracking_client
from tasks.runtime.records import DataVersion, Decision, Run, TrainedModel, Validation, Version
from tests.tasks.conftest import evaluation_of, run_of

PRODUCTS = 2000


def result_of(mean_recall: float, products: int = PRODUCTS) -> RetrievalResult:
    """A result whose first products are all found and whose last are not."""
    found = 0 if np.isnan(mean_recall) else round(mean_recall * products)
    ranks = np.where(np.arange(products) < found, 1, 100)
    rank_at = {k: mean_recall if np.isnan(mean_recall) else found / products for k in RANK_AT}
    side = Direction(
        products,
        products,
        rank_at,
        1.0,
        dict.fromkeys(RANK_AT, 0.0),
        ranks,
        np.arange(products),
        tied=np.zeros_like(ranks),
    )
    return RetrievalResult(side, side)


def compared_alone(products: int, columns: SliceColumns | None = None) -> Compared:
    """All of a test split in which each product has one caption and one image of its own."""
    hashes = np.arange(products, dtype=np.uint64)
    related = relate(hashes.tolist(), hashes.tolist())
    luck = sources_of_luck(related, hashes, hashes, [""] * products)
    return Compared(luck, columns or {}, products, products)


def write_files(
    run_id: str, config: RunConfig, folder: Path, served: Path | None, package: Path
) -> None:
    """Pack a model folder without what makes it loadable, which takes seconds."""
    shutil.copytree(folder, package / "artifacts" / "model")


def serve_by_torch(run: Run, validation: Validation, model: TrainedModel) -> Served:
    """Leave out the exports, which take seconds."""
    return Served(weights_sha256=model.weights_sha256, folder=None, note="by torch")


class Shop:
    """One registered model of its own, and what its versions score."""

    def __init__(
        self,
        config: RunConfig,
        data: DataVersion,
        folder: Path,
        model: TrainedModel,
        validation: Validation,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.config, self.data, self.folder, self.model, self.validation = (
            config,
            data,
            folder,
            model,
            validation,
        )
        self.scores: dict[int, float] = {}
        self.data_versions: dict[int, str] = {}
        self.base = 0.01
        monkeypatch.setattr(
            scoring,
            "score_version",
            lambda run, validation, version, rows: self.scored(int(version.version)),
        )
        monkeypatch.setattr(
            scoring, "score_base", lambda *_: Scored(result_of(self.base), self.data.version)
        )
        monkeypatch.setattr(
            scoring, "choose_pairs", lambda *_: (np.arange(PRODUCTS), compared_alone(PRODUCTS))
        )
        monkeypatch.setattr(promote, "keep_traces", lambda run, validation: None)
        monkeypatch.setattr(promote, "publish_decision", lambda decision: None)
        monkeypatch.setattr(package, "write_package", write_files)
        monkeypatch.setattr(serving, "serve_model", serve_by_torch)

    @property
    def name(self) -> str:
        return self.config.registered_model

    def scored(self, number: int) -> Scored:
        return Scored(
            result_of(self.scores[number]), self.data_versions.get(number, self.data.version)
        )

    def weights(self, seed: int) -> TrainedModel:
        """Weights of their own: those of the session with one number changed."""
        folder = self.folder / f"weights-{seed}"
        with sealed_folder(folder) as temporary:
            for path in self.model.folder.iterdir():
                shutil.copy(path, temporary)
            (temporary / "manifest.json").unlink()
            tensors = load_file(temporary / WEIGHTS_FILE)
            tensors["logit_scale"] = np.asarray(tensors["logit_scale"] + np.float32(seed / 1000))
            save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        return self.model.model_copy(
            update={"folder": folder, "weights_sha256": weights_sha256(folder)}
        )

    def register(
        self, mean_recall: float, fingerprint: str, weights: TrainedModel | None = None
    ) -> Version:
        run = run_of(self.config, self.data, self.folder, f"{self.name}-{fingerprint}")
        model = weights or self.weights(len(self.scores) + 1)
        version = register.register.fn(
            run, self.validation, model, evaluation_of(self.folder, mean_recall)
        )
        self.scores[version.number] = mean_recall
        return version

    def promote(
        self, version: Version, mean_recall: float, base: float = 0.01, fingerprint: str = ""
    ) -> Decision:
        run = run_of(
            self.config, self.data, self.folder, f"{self.name}-{fingerprint or version.number}"
        )
        evaluation, self.base = evaluation_of(self.folder, mean_recall, base), base
        decision = promote.decide.fn(run, self.validation, version, evaluation)
        return promote.promote.fn(run, version, decision)

    def add(self, mean_recall: float, base: float = 0.01) -> Decision:
        version = self.register(mean_recall, f"f{len(self.scores) + 1}")
        return self.promote(version, mean_recall, base)

    def alias(self, name: str) -> int | None:
        found = versions.read_alias(tracking_client(), self.name, name)
        return int(found.version) if found else None

    def aliases(self) -> tuple[int | None, int | None]:
        return self.alias("champion"), self.alias("previous")

    def tags(self, number: int) -> dict[str, str]:
        return dict(tracking_client().get_model_version(self.name, str(number)).tags)

    def set_alias(self, name: str, number: int) -> None:
        tracking_client().set_registered_model_alias(self.name, name, str(number))
