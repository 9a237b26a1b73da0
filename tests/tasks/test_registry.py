from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from model.config import RunConfig
from model.errors import CheckpointError, PromotionRefused, ServiceError
from tasks import registry
from tasks.records import DataVersion, Decision, TrainedModel, Validation, Version
from tasks.tracking import tracking_client

from .conftest import evaluation_of, run_of

pytestmark = pytest.mark.usefixtures("state")


class Shop:
    """Registers versions with chosen test figures and promotes them, as the main job does."""

    def __init__(
        self,
        config: RunConfig,
        data: DataVersion,
        folder: Path,
        model: TrainedModel,
        validation: Validation,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.config, self.data, self.folder, self.model, self.validation = config, data, folder, model, validation
        self.scores: dict[int, float] = {}
        monkeypatch.setattr(
            registry,
            "compare",
            lambda run, validation, version, champion: registry.Comparison(
                new=self.scores[version.number], old=self.scores[int(champion.version)], low=-0.01, high=0.02
            ),
        )

    def register(self, mean_recall: float, fingerprint: str) -> Version:
        run = run_of(self.config, self.data, self.folder, f"{self.config.registered_model}-{fingerprint}")
        evaluation = evaluation_of(self.folder, mean_recall)
        version = registry.register.fn(run, self.validation, self.model, evaluation)
        self.scores[version.number] = mean_recall
        return version

    def promote(self, version: Version, mean_recall: float, base: float = 0.01) -> Decision:
        run = run_of(self.config, self.data, self.folder, f"{self.config.registered_model}-{version.number}")
        return registry.promote.fn(run, self.validation, version, evaluation_of(self.folder, mean_recall, base))

    def add(self, mean_recall: float, base: float = 0.01) -> Decision:
        version = self.register(mean_recall, f"f{len(self.scores) + 1}")
        return self.promote(version, mean_recall, base)

    def alias(self, name: str) -> int | None:
        found = registry._alias(tracking_client(), self.config.registered_model, name)
        return int(found.version) if found else None


@pytest.fixture
def shop(
    config: RunConfig,
    data: DataVersion,
    tmp_path: Path,
    weights: TrainedModel,
    validation: Validation,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    return Shop(config, data, tmp_path, weights, validation, monkeypatch)


def test_the_first_version_that_beats_its_base_weights_is_champion(shop: Shop) -> None:
    assert shop.add(0.3).is_promoted
    assert shop.alias("champion") == 1


def test_a_version_no_better_than_its_base_weights_gets_no_alias(shop: Shop) -> None:
    assert not shop.add(0.01, base=0.01).is_promoted
    assert shop.alias("champion") is None
    assert shop.alias("challenger") is None


def test_a_better_version_takes_over_and_the_old_champion_is_previous(shop: Shop) -> None:
    shop.add(0.3)
    decision = shop.add(0.31)
    assert "better: mean recall 31.00% against 30.00% of champion version 1" in decision.reason
    assert (shop.alias("champion"), shop.alias("previous")) == (2, 1)


@pytest.mark.parametrize("mean_recall", [0.3, 0.29, float("nan")])
def test_a_tie_a_loss_or_a_nan_does_not_take_over(shop: Shop, mean_recall: float) -> None:
    shop.add(0.3)
    decision = shop.add(mean_recall)
    assert not decision.is_promoted
    assert shop.alias("champion") == 1


def test_a_version_that_does_not_take_over_is_challenger_until_a_newer_one_wins(shop: Shop) -> None:
    shop.add(0.3)
    shop.add(0.2)
    assert shop.alias("challenger") == 2
    shop.add(0.4)
    assert shop.alias("challenger") is None


def test_an_alias_that_a_person_set_is_the_champion_to_beat(shop: Shop) -> None:
    shop.add(0.3)
    shop.add(0.5)
    tracking_client().set_registered_model_alias(shop.config.registered_model, "champion", "1")
    assert "champion version 1" in shop.add(0.4).reason
    assert (shop.alias("champion"), shop.alias("previous")) == (3, 1)


def test_promoting_again_does_not_move_a_hand_set_alias_back(shop: Shop) -> None:
    shop.add(0.3)
    second = shop.register(0.5, "f2")
    decision = shop.promote(second, 0.5)
    tracking_client().set_registered_model_alias(shop.config.registered_model, "champion", "1")
    again = shop.promote(second, 0.5)
    assert (again.is_promoted, again.reason) == (False, decision.reason)
    assert shop.alias("champion") == 1


def test_a_run_that_ended_between_the_alias_and_its_reason_leaves_the_reason_when_run_again(shop: Shop) -> None:
    version = shop.register(0.3, "f1")
    tracking_client().set_registered_model_alias(shop.config.registered_model, "champion", "1")
    assert shop.promote(version, 0.3).is_promoted
    tags = tracking_client().get_model_version(shop.config.registered_model, "1").tags
    assert registry.REASON_TAG in tags
    assert tags[registry.WAS_CHAMPION_TAG] == "true"


def test_a_version_counts_as_nothing_new_only_after_its_embeddings_were_exported(shop: Shop) -> None:
    version = shop.register(0.3, "f1")
    shop.promote(version, 0.3)
    mark = f"{shop.config.registered_model}-f1"
    assert registry.find_registered_fingerprint(shop.config, mark) is None
    registry.record_export(version, Path("embeddings"), 24)
    assert registry.find_registered_fingerprint(shop.config, mark) == version


def test_a_removed_champion_is_never_replaced_by_the_machine(shop: Shop) -> None:
    shop.add(0.3)
    tracking_client().delete_registered_model_alias(shop.config.registered_model, "champion")
    decision = shop.add(0.9)
    assert not decision.is_promoted
    assert "python -m flows promote --version 2" in decision.reason
    assert shop.alias("champion") is None


def test_a_registry_that_fails_to_answer_promotes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    version = shop.register(0.3, "f1")

    def broken(*_: object) -> None:
        raise MlflowException("database is gone")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.get_model_version_by_alias", broken)
        with pytest.raises(ServiceError, match="could not read the alias champion"):
            shop.promote(version, 0.3)
    assert shop.alias("champion") is None


def test_registering_one_fingerprint_twice_makes_one_version(shop: Shop) -> None:
    assert shop.register(0.3, "same") == shop.register(0.3, "same")


def test_rollback_makes_previous_the_champion_and_leaves_the_reason(shop: Shop) -> None:
    shop.add(0.3)
    shop.add(0.4)
    registry.roll_back(shop.config.registered_model, "complaints about shoes")
    assert (shop.alias("champion"), shop.alias("previous")) == (1, 2)
    tags = tracking_client().get_model_version(shop.config.registered_model, "1").tags
    assert "by hand: rollback, complaints about shoes" in tags[registry.REASON_TAG]


def test_a_rollback_without_previous_says_what_to_do(shop: Shop) -> None:
    shop.add(0.3)
    with pytest.raises(PromotionRefused, match="no version has the alias previous; name one with"):
        registry.roll_back(shop.config.registered_model, "why")


def test_promoting_a_version_that_is_not_there_names_those_that_are(shop: Shop) -> None:
    shop.add(0.3)
    with pytest.raises(PromotionRefused, match="no version 7; known: 1"):
        registry.promote_by_hand(shop.config.registered_model, 7, "why")


def test_a_version_whose_weights_were_changed_is_not_promoted(shop: Shop) -> None:
    shop.add(0.3)
    second = shop.register(0.2, "f2")
    folder = registry.model_folder(tracking_client().get_model_version(shop.config.registered_model, "2"))
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PromotionRefused, match="cannot serve"):
        registry.promote_by_hand(shop.config.registered_model, second.number, "why")
    assert shop.alias("champion") == 1


def test_weights_changed_between_evaluation_and_registration_are_refused(shop: Shop, weights: TrainedModel) -> None:
    shop.model = weights.model_copy(update={"weights_sha256": "f" * 64})
    with pytest.raises(CheckpointError, match="not those that were evaluated"):
        shop.register(0.3, "f1")


def test_a_version_carries_its_whole_lineage(shop: Shop) -> None:
    version = shop.register(0.3, "f1")
    tags = tracking_client().get_model_version(version.name, str(version.number)).tags
    for key in ("data_version", "config_sha256", "git_commit", "base_weights_sha256", "fingerprint", "validation"):
        assert tags[f"commerce_clip.{key}"]
    assert tags["commerce_clip.weights_sha256"] == shop.model.weights_sha256
