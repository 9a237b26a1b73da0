"""The MLflow model registry: register, promote, roll back. The only file that knows it.

Aliases, never stages: ``challenger`` is the newest candidate, ``champion`` serves, ``previous`` is where a rollback
goes. Every change leaves its reason as a tag. A read that fails is a ServiceError and never "there is no champion",
and an alias that a person set in MLflow's page is the champion to beat.
"""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)

from model.errors import CheckpointError, PromotionRefused, ServiceError
from tasks.inputs import split_input
from tasks.lineage import fingerprint
from tasks.records import DataVersion, Decision, Evaluation, Record, Run, TrainedModel, Validation, Version
from tasks.run import lineage_tags
from tasks.stage import service_task, stage
from tasks.tracking import FINGERPRINT_TAG, log_model, tracking_client

if TYPE_CHECKING:
    from model.config import RunConfig
    from model.retrieval import RetrievalResult

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
WEIGHTS_TAG = "commerce_clip.weights_sha256"
MEAN_RECALL_TAG = "commerce_clip.test_mean_recall"
REASON_TAG = "commerce_clip.promotion"
EXPORT_TAG = "commerce_clip.embeddings"
DATA_VERSION_TAG = "commerce_clip.data_version"
WAS_CHAMPION_TAG = "commerce_clip.was_champion"
OUTAGES = {ErrorCode.Name(code) for code in (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED)}
ALREADY_CHAMPION = "is the champion already"
# MLflow answers "invalid parameter" for an alias that is not there.
NOT_FOUND = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}


def find_registered(config: "RunConfig", data: DataVersion) -> Version | None:
    """Return the version that this data, code, config and base weights have already led to, or None.

    Raises:
        ServiceError: the registry does not answer.
    """
    return find_registered_fingerprint(config, fingerprint(config, data))


def find_registered_fingerprint(config: "RunConfig", mark: str) -> Version | None:
    """Return the version of a fingerprint if its run got as far as exporting embeddings, or None: it has to go on."""
    found = _versions(tracking_client(), config.registered_model, {FINGERPRINT_TAG: mark})
    finished = [version for version in found if EXPORT_TAG in version.tags]
    return _record(finished[-1]) if finished else None


def record_export(version: Version, folder: Path, rows: int) -> None:
    """Leave as a tag of the version where its embeddings lie; this completes a run.

    Raises:
        ServiceError: the registry does not answer.
    """
    try:
        tracking_client().set_model_version_tag(
            version.name, str(version.number), EXPORT_TAG, f"{rows} rows in {folder}"
        )
    except MlflowException as error:
        raise _unreachable("could not tag a version", error) from error


@stage("register", Version)
def register(run: Run, validation: Validation, model: TrainedModel, evaluation: Evaluation) -> Version:
    """Register the model folder as a new version with its lineage; once a fingerprint, however often it is run.

    Raises:
        ServiceError: the registry does not answer.
        CheckpointError: the weights changed since they were evaluated.
    """
    client = tracking_client()
    known = _versions(client, run.config.registered_model, {FINGERPRINT_TAG: run.fingerprint})
    if known:
        return _record(known[-1])
    from model.sealed import weights_sha256

    if weights_sha256(model.folder) != model.weights_sha256:
        raise CheckpointError(f"{model.folder}: the weights are not those that were evaluated; run again")
    tags = lineage_tags(run.config, run.data) | {
        FINGERPRINT_TAG: run.fingerprint,
        WEIGHTS_TAG: model.weights_sha256,
        MEAN_RECALL_TAG: f"{evaluation.metrics['mean_recall']:.6f}",
        "commerce_clip.base_weights_sha256": evaluation.base_weights_sha256,
        "commerce_clip.validation": f"passed ({validation.expectations} expectations)",
    }
    model_id = log_model(run.mlflow_run_id, run.config, model.folder)
    try:
        if not _model_exists(client, run.config.registered_model):
            client.create_registered_model(run.config.registered_model)
        version = client.create_model_version(
            run.config.registered_model, f"models:/{model_id}", run_id=run.mlflow_run_id, tags=tags, model_id=model_id
        )
    except MlflowException as error:
        raise _unreachable("could not register a version", error) from error
    return _record(version)


@service_task("promote")
def promote(run: Run, validation: Validation, version: Version, evaluation: Evaluation) -> Decision:
    """Decide on a new version and set the aliases: it must beat its base weights, then the champion, on this test.

    The champion is scored again in this very run, so both numbers come from the same pairs.

    Raises:
        ServiceError: the registry does not answer; nothing was promoted.
        PromotionRefused: the champion's files are missing or damaged.
    """
    client = tracking_client()
    champion = _alias(client, version.name, CHAMPION)
    is_champion = champion is not None and int(champion.version) == version.number
    known = _version(client, version.name, version.number)
    if REASON_TAG in known.tags:
        # Decided by an earlier try; whatever a person did to the aliases since then stays as it is.
        reason = str(known.description)
        return Decision(version=version.number, is_promoted=is_champion, aliases=aliases_of(version), reason=reason)
    if is_champion:
        decision = Decision(version=version.number, is_promoted=True, aliases=[CHAMPION], reason=ALREADY_CHAMPION)
        _set_aliases(client, version, None, decision)
        return decision
    decision = _decide(run, validation, version, evaluation, champion, _had_champion(client, version.name))
    _set_aliases(client, version, champion, decision)
    return decision


def _decide(
    run: Run,
    validation: Validation,
    version: Version,
    evaluation: Evaluation,
    champion: ModelVersion | None,
    had_champion: bool,
) -> Decision:
    """Return the decision with its reason; only ``>`` promotes, and a NaN is greater than nothing."""
    new, base = evaluation.metrics["mean_recall"], evaluation.base_metrics["mean_recall"]
    refused = Decision(version=version.number, is_promoted=False, aliases=[CHALLENGER], reason="")
    promoted = Decision(version=version.number, is_promoted=True, aliases=[CHAMPION], reason="")
    if not new > base:
        reason = f"mean recall {new:.2%} does not beat its base weights' {base:.2%}"
        return refused.model_copy(update={"aliases": [], "reason": reason})
    if champion is None and had_champion:
        reason = (
            "there was a champion, but its alias or version was removed; choose one with "
            f"`python -m flows promote --version {version.number}`"
        )
        return refused.model_copy(update={"reason": reason})
    if champion is None:
        reason = f"first champion: mean recall {new:.2%} against {base:.2%} of its base weights"
        return promoted.model_copy(update={"reason": reason})
    compared = compare(run, validation, version, champion)
    figures = (
        f"mean recall {compared.new:.2%} against {compared.old:.2%} of champion version {champion.version} "
        f"on data version {run.data.short} "
        f"(95 % interval of the difference {compared.low:+.2%} to {compared.high:+.2%})"
    )
    if not compared.new > compared.old:
        return refused.model_copy(update={"reason": f"not better: {figures}"})
    return promoted.model_copy(update={"reason": f"better: {figures}"})


class Comparison(Record):
    """Mean recall of two versions on the same test split, and the 95 % interval of their difference."""

    new: float
    old: float
    low: float
    high: float


def compare(run: Run, validation: Validation, version: Version, champion: ModelVersion) -> Comparison:
    """Score a version and the champion in this very run on the run's test split.

    Raises:
        PromotionRefused: the files of one are missing or not those that were registered.
    """
    from model.stats import mean_recall_difference

    new = _score(run, validation, _version(tracking_client(), version.name, version.number))
    old = _score(run, validation, champion)
    interval = mean_recall_difference(new, old, run.config.evaluate.bootstrap_draws, run.config.seed)
    return Comparison(new=new.mean_recall, old=old.mean_recall, low=interval.low, high=interval.high)


def _score(run: Run, validation: Validation, version: ModelVersion) -> "RetrievalResult":
    from model.embed import judge
    from model.towers import load_towers

    towers = load_towers(_loadable_folder(version), run.config.device, run.config.precision)
    settings = run.config.evaluate
    test = split_input(run, validation, "test", towers, crops_centre=True)
    return judge(towers, test, settings.batch_size, settings.block_rows, run.config.workers)


def model_folder(version: ModelVersion) -> Path:
    """Return the model folder of a version on this machine, downloaded if need be, its weights checked against the tag.

    Raises:
        CheckpointError: the weights are not those that were registered.
    """
    from model.sealed import weights_sha256

    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts"))
    inner = next((path.parent for path in folder.rglob("open_clip_config.json")), folder)
    if weights_sha256(inner) != version.tags.get(WEIGHTS_TAG):
        raise CheckpointError(f"{inner}: the weights are not those that were registered")
    return inner


def _set_aliases(client: MlflowClient, version: Version, champion: ModelVersion | None, decision: Decision) -> None:
    try:
        if decision.is_promoted:
            if champion is not None:
                client.set_registered_model_alias(version.name, PREVIOUS, champion.version)
            client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
            client.set_model_version_tag(version.name, str(version.number), WAS_CHAMPION_TAG, "true")
            challenger = _alias(client, version.name, CHALLENGER)
            if challenger is not None and int(challenger.version) < version.number:
                client.delete_registered_model_alias(version.name, CHALLENGER)
        elif CHALLENGER in decision.aliases:
            client.set_registered_model_alias(version.name, CHALLENGER, str(version.number))
        _leave_reason(client, version.name, version.number, decision.reason)
    except MlflowException as error:
        raise _unreachable("could not set aliases", error) from error


def promote_by_hand(name: str, number: int, reason: str) -> Decision:
    """Make a version champion because a person says so.

    Raises:
        PromotionRefused: there is no such version, or its files are not what was registered.
    """
    client = tracking_client()
    version = _version(client, name, number)
    _loadable_folder(version)
    champion = _alias(client, name, CHAMPION)
    if champion is not None and int(champion.version) == number:
        return Decision(version=number, is_promoted=False, aliases=[CHAMPION], reason=ALREADY_CHAMPION)
    decision = Decision(version=number, is_promoted=True, aliases=[CHAMPION], reason=f"by hand: {reason}")
    _set_aliases(client, _record(version), champion, decision)
    return decision


def roll_back(name: str, reason: str) -> Decision:
    """Make ``previous`` the champion again.

    Raises:
        PromotionRefused: there is no ``previous``, or its files are not what was registered.
    """
    client = tracking_client()
    previous = _alias(client, name, PREVIOUS)
    if previous is None:
        raise PromotionRefused(
            f"{name}: no version has the alias {PREVIOUS}; name one with `python -m flows promote --version N`"
        )
    return promote_by_hand(name, int(previous.version), f"rollback, {reason}")


def find_version(name: str, which: str) -> Version:
    """Return a version by number or alias.

    Raises:
        PromotionRefused: there is none.
    """
    client = tracking_client()
    if which.isdigit():
        return _record(_version(client, name, int(which)))
    version = _alias(client, name, which)
    if version is None:
        raise PromotionRefused(f"{name}: no version has the alias {which}; train one with `make run`")
    return _record(version)


def aliases_of(version: Version) -> list[str]:
    """Return the aliases that point to a version."""
    client = tracking_client()
    return [name for name in (CHAMPION, CHALLENGER, PREVIOUS) if _points_to(client, version, name)]


def champion_origin(name: str) -> tuple[str, Version] | None:
    """Return the data version that the champion was trained on, and the champion, or None where there is none.

    Raises:
        ServiceError: the registry does not answer.
    """
    champion = _alias(tracking_client(), name, CHAMPION)
    return None if champion is None else (str(champion.tags.get(DATA_VERSION_TAG, "")), _record(champion))


def trained_on() -> dict[str, list[str]]:
    """Return the registered versions of all models by the data version that they were trained on.

    Raises:
        ServiceError: the registry does not answer.
    """
    client, found, token = tracking_client(), dict[str, list[str]](), None
    try:
        while token is None or token:
            page = client.search_model_versions(order_by=["version_number ASC"], page_token=token)
            for version in page:
                data = version.tags.get(DATA_VERSION_TAG, "")
                found.setdefault(data, []).append(f"{version.name} {version.version}")
            token = page.token or ""
    except MlflowException as error:
        raise _unreachable("could not search versions", error) from error
    return found


def registered_model(version: Version) -> TrainedModel:
    """Return a registered version as a model on this machine, its weights checked against the version's tag.

    Raises:
        CheckpointError: the weights are not those that were registered.
    """
    registered = _version(tracking_client(), version.name, version.number)
    folder = model_folder(registered)
    return TrainedModel(folder=folder, weights_sha256=registered.tags[WEIGHTS_TAG], best_epoch=0, valid_mean_recall=0.0)


def _points_to(client: MlflowClient, version: Version, alias: str) -> bool:
    found = _alias(client, version.name, alias)
    return found is not None and int(found.version) == version.number


def _loadable_folder(version: ModelVersion) -> Path:
    """Return the checked model folder of a version that is about to serve or to be compared.

    Raises:
        PromotionRefused: its files are missing or not those that were registered.
    """
    try:
        return model_folder(version)
    except (CheckpointError, MlflowException, OSError) as error:
        raise PromotionRefused(
            f"{version.name} version {version.version} cannot serve ({error}); restore its files or choose another"
        ) from error


def _had_champion(client: MlflowClient, name: str) -> bool:
    return bool(_versions(client, name, {WAS_CHAMPION_TAG: "true"}))


def _leave_reason(client: MlflowClient, name: str, number: int, reason: str) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(name, str(number), REASON_TAG, f"{when} {getpass.getuser()}: {reason}")
    client.update_model_version(name, str(number), description=reason)


def _versions(client: MlflowClient, name: str, tags: dict[str, str]) -> list[ModelVersion]:
    """Return the versions that carry all the tags, by number."""
    conditions = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
    try:
        found = client.search_model_versions(" and ".join(conditions))
    except MlflowException as error:
        raise _unreachable("could not search versions", error) from error
    return sorted(found, key=lambda version: int(version.version))


def _version(client: MlflowClient, name: str, number: int) -> ModelVersion:
    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise _unreachable("could not read a version", error) from error
        known = ", ".join(str(version.version) for version in _versions(client, name, {})) or "none"
        raise PromotionRefused(f"{name}: no version {number}; known: {known}") from None


def _alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version of an alias, None where there is none; only "not found" means not found."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return None
        raise _unreachable(f"could not read the alias {alias}", error) from error


def _model_exists(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return False
        raise
    return True


def _record(version: Any) -> Version:
    return Version(name=version.name, number=int(version.version), mlflow_run_id=str(version.run_id or ""))


def _unreachable(what: str, error: MlflowException) -> ServiceError:
    """Return an outage as the error that is retried; anything else is a bug of ours and goes up as it is."""
    if error.error_code not in OUTAGES:
        raise error
    said = str(error).splitlines()[0][:200]
    return ServiceError(f"MLflow registry {what} ({error.error_code}: {said}); check the server and run again")
