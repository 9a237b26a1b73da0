"""Registered versions: find them, read them, and what their tags and aliases mean.

A read that fails is a ServiceError and never "there is no champion".
"""

from collections import defaultdict
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.errors import PromotionRefused
from tasks.registry.calls import DENIED, NOT_FOUND, call_failure, registry_call
from tasks.registry.reading import CHALLENGER as CHALLENGER
from tasks.registry.reading import CHAMPION as CHAMPION
from tasks.registry.reading import DATA_VERSION_TAG
from tasks.registry.reading import PREVIOUS as PREVIOUS
from tasks.registry.tracking import tracking_client
from tasks.runtime.records import Version

WEIGHTS_TAG = "commerce_clip.weights_sha256"
WAS_CHAMPION_TAG = "commerce_clip.was_champion"


def find_version(name: str, which: str) -> Version:
    """Return a version by number or alias.

    Raises:
        PromotionRefused: there is none.
    """
    client = tracking_client()
    if which.isdigit():
        return as_version(read_version(client, name, int(which)))

    version = read_alias(client, name, which)
    if version is None:
        raise PromotionRefused(
            f"{name}: no version has the alias {which}; train one with `make run`"
        )
    return as_version(version)


def aliases_of(version: Version) -> list[str]:
    """Return the aliases that point to a version."""
    client = tracking_client()
    found = {
        alias: read_alias(client, version.name, alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)
    }
    return [alias for alias, at in found.items() if at and int(at.version) == version.number]


def champion_origin(name: str) -> tuple[str, Version] | None:
    """Return the data version that the champion was trained on, and the champion, or None.

    Raises:
        ServiceError: the registry does not answer.
    """
    champion = read_alias(tracking_client(), name, CHAMPION)
    if champion is None:
        return None
    return str(champion.tags.get(DATA_VERSION_TAG, "")), as_version(champion)


def trained_on() -> dict[str, list[str]]:
    """Return the registered versions of all models by the data version that they were trained on.

    Raises:
        ServiceError: the registry does not answer.
    """
    tracking_client()
    with registry_call("could not search versions"):
        versions = mlflow.search_model_versions(order_by=["version_number ASC"])
    found = defaultdict[str, list[str]](list)
    for version in versions:
        found[version.tags.get(DATA_VERSION_TAG, "")].append(f"{version.name} {version.version}")
    return found


def model_names() -> list[str]:
    """Return the names of all registered models.

    Raises:
        ServiceError: the registry does not answer.
    """
    client = tracking_client()
    with registry_call("could not list models"):
        return [str(model.name) for model in client.search_registered_models()]


def had_champion(client: MlflowClient, name: str) -> bool:
    """Return whether a model ever had a champion, even if that version was deleted since."""
    return WAS_CHAMPION_TAG in model_tags(client, name) or bool(
        find_versions(client, name, {WAS_CHAMPION_TAG: "true"})
    )


def model_tags(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the tags of a registered model, none where it does not exist.

    Raises:
        ServiceError: the registry does not answer.
        AccessDenied: the user may not read it.
    """
    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as error:
        if is_absent(client, name, error):
            return {}
        raise call_failure("could not read the model", error, may_read(name)) from error


def is_absent(client: MlflowClient, name: str, error: MlflowException) -> bool:
    """Return whether an error about a registered model or its alias means that it is not there.

    To a user without administrator's rights MLflow denies what does not exist; the search lists
    what the user may read. A model that the user may not even read counts as absent here, and
    whatever is then done with it is denied.

    Raises:
        ServiceError: the registry does not answer.
    """
    if error.error_code in NOT_FOUND:
        return True
    if error.error_code != DENIED:
        return False
    with registry_call("could not search models"):
        return not client.search_registered_models(f"name = '{name}'", max_results=1)


def may_read(name: str) -> str:
    """Return the permission that reading a model takes, for a sentence."""
    return f"READ on the registered model {name}"


def find_versions(client: MlflowClient, name: str, tags: dict[str, str]) -> list[ModelVersion]:
    """Return the versions that carry all the tags, by number."""
    conditions = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
    with registry_call("could not search versions"):
        return sorted(
            client.search_model_versions(" and ".join(conditions)),
            key=lambda version: int(version.version),
        )


def read_version(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """Return a version by its number.

    Raises:
        PromotionRefused: there is none; names those that are.
        ServiceError: the registry does not answer.
    """
    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise call_failure("could not read a version", error, may_read(name)) from error
        known = ", ".join(str(version.version) for version in find_versions(client, name, {}))
        raise PromotionRefused(f"{name}: no version {number}; known: {known or 'none'}") from None


def read_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version of an alias; None only where MLflow answers that it is not there."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if is_absent(client, name, error):
            return None
        raise call_failure(f"could not read the alias {alias}", error, may_read(name)) from error


def as_version(version: Any) -> Version:
    """Return MLflow's version as the record that stages hand on."""
    return Version(
        name=version.name,
        number=int(version.version),
        mlflow_run_id=str(version.run_id or ""),
    )


def may_edit(name: str) -> str:
    """Return the permission that making and tagging versions takes, for a sentence."""
    return f"EDIT on the registered model {name}"


def may_manage(name: str) -> str:
    """Return the permission that moving and removing aliases takes, for a sentence."""
    return f"MANAGE on the registered model {name}"
