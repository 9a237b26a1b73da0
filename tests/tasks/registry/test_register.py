from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError, PromotionRefused, ServiceError
from tasks.promotion import promote
from tasks.registry import files, register, versions
from tasks.registry.reading import REASON_TAG
from tasks.registry.tracking import tracking_client
from tasks.runtime.records import TrainedModel
from tests.gears import rounds
from tests.tasks.conftest import evaluation_of, run_of
from tests.tasks.registering import registrars
from tests.tasks.shop import Shop

pytestmark = pytest.mark.usefixtures("state")

PROCESSES, ROUNDS = rounds(4, 10), rounds(1, 20)


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


def test_a_rollback_after_a_person_moved_the_alias_goes_to_the_champion_until_then(
    shop: Shop,
) -> None:
    for mean_recall in (0.3, 0.4, 0.35):
        shop.add(mean_recall)
    name = shop.config.registered_model
    tracking_client().set_registered_model_alias(name, "champion", "3")
    assert promote.roll_back(name, "a mistake").version == 2
    assert (shop.alias("champion"), shop.alias("previous")) == (2, 3)
    tracking_client().set_registered_model_alias(name, "previous", "1")
    tracking_client().set_registered_model_alias(name, "champion", "3")
    tracking_client().delete_model_version(name, "2")
    assert promote.roll_back(name, "a mistake again").version == 1


def test_a_run_that_ended_between_the_alias_and_its_reason_leaves_the_reason_when_run_again(
    shop: Shop,
) -> None:
    version = shop.register(0.3, "f1")
    tracking_client().set_registered_model_alias(shop.config.registered_model, "champion", "1")
    assert shop.promote(version, 0.3).is_promoted
    tags = tracking_client().get_model_version(shop.config.registered_model, "1").tags
    assert REASON_TAG in tags
    assert tags[versions.WAS_CHAMPION_TAG] == "true"


def test_a_version_counts_as_nothing_new_only_after_its_embeddings_were_exported(
    shop: Shop,
) -> None:
    version = shop.register(0.3, "f1")
    shop.promote(version, 0.3, fingerprint="f1")
    mark = f"{shop.config.registered_model}-f1"
    assert register.find_registered(shop.config, mark) is None
    register.record_export(version, Path("embeddings"), 24)
    assert register.find_registered(shop.config, mark) == version


def test_a_removed_champion_is_never_replaced_by_the_machine(shop: Shop) -> None:
    shop.add(0.3)
    tracking_client().delete_registered_model_alias(shop.config.registered_model, "champion")
    decision = shop.add(0.9)
    assert not decision.is_promoted
    assert "commerce-clip promote --version 2" in decision.reason
    assert shop.alias("champion") is None


def test_a_registry_that_fails_to_answer_promotes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.faults(kind="S7: one version a weights file", trials=1)
def test_the_same_weights_judged_by_other_settings_are_the_same_version_and_nothing_new_next_time(
    shop: Shop,
) -> None:
    weights = shop.weights(1)
    first, again = shop.register(0.3, "f1", weights), shop.register(0.3, "f2", weights)
    assert first == again
    register.record_export(first, Path("embeddings"), 24)
    for mark in ("f1", "f2"):
        assert register.find_registered(shop.config, f"{shop.name}-{mark}") is None
        shop.promote(first, 0.3, fingerprint=mark)
        assert register.find_registered(shop.config, f"{shop.name}-{mark}") == first


def test_rollback_makes_previous_the_champion_and_leaves_the_reason(shop: Shop) -> None:
    shop.add(0.3)
    shop.add(0.4)
    promote.roll_back(shop.config.registered_model, "complaints about shoes")
    assert (shop.alias("champion"), shop.alias("previous")) == (1, 2)
    tags = tracking_client().get_model_version(shop.config.registered_model, "1").tags
    assert "by hand: rollback, complaints about shoes" in tags[REASON_TAG]


def test_a_rollback_without_previous_says_what_to_do(shop: Shop) -> None:
    shop.add(0.3)
    with pytest.raises(PromotionRefused, match="no version has the alias previous; name one with"):
        promote.roll_back(shop.config.registered_model, "why")


def test_promoting_a_version_that_is_not_there_names_those_that_are(shop: Shop) -> None:
    shop.add(0.3)
    with pytest.raises(PromotionRefused, match="no version 7; known: 1"):
        promote.promote_by_hand(shop.config.registered_model, 7, "why")


def test_a_version_whose_weights_were_changed_is_not_promoted(shop: Shop) -> None:
    shop.add(0.3)
    second = shop.register(0.2, "f2")
    folder = files.model_folder(
        tracking_client().get_model_version(shop.config.registered_model, "2")
    )
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PromotionRefused, match="cannot serve"):
        promote.promote_by_hand(shop.config.registered_model, second.number, "why")
    assert shop.alias("champion") == 1


def test_weights_changed_between_evaluation_and_registration_are_refused(
    shop: Shop, weights: TrainedModel
) -> None:
    changed = weights.model_copy(update={"weights_sha256": "f" * 64})
    with pytest.raises(CheckpointError, match="not those that were evaluated"):
        shop.register(0.3, "f1", changed)


def test_a_version_carries_its_whole_lineage(shop: Shop) -> None:
    weights = shop.weights(1)
    version = shop.register(0.3, "f1", weights)
    tags = tracking_client().get_model_version(version.name, str(version.number)).tags
    for key in (
        "data_version",
        "config_sha256",
        "git_commit",
        "base_weights_sha256",
        "fingerprint",
        "validation",
    ):
        assert tags[f"commerce_clip.{key}"]
    assert tags["commerce_clip.weights_sha256"] == weights.weights_sha256


@pytest.mark.faults(kind="S5: ten processes register at once", trials=ROUNDS)
def test_ten_processes_that_register_at_once_get_ten_versions_each_with_its_own_weights(
    shop: Shop,
) -> None:
    weights = [shop.weights(seed) for seed in range(1, PROCESSES + 1)]
    evaluation = evaluation_of(shop.folder, 0.3)
    with registrars(PROCESSES) as register_at_once:
        for number in range(ROUNDS):
            config = shop.config.model_copy(update={"registered_model": f"at-once-{number}"})
            runs = [
                run_of(config, shop.data, shop.folder, f"{number}-{seed}")
                for seed in range(PROCESSES)
            ]
            registered = register_at_once(
                [
                    (run, shop.validation, own, evaluation)
                    for run, own in zip(runs, weights, strict=True)
                ]
            )
            assert sorted(version.number for version in registered) == list(range(1, PROCESSES + 1))
            for version, run, own in zip(registered, runs, weights, strict=True):
                its_number = str(version.number)
                known = tracking_client().get_model_version(config.registered_model, its_number)
                assert known.tags[versions.WEIGHTS_TAG] == own.weights_sha256
                assert known.tags[register.FINGERPRINT_TAG] == run.fingerprint
