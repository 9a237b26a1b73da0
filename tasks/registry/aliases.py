"""Move the alias ``champion``: each change whole, with its reason, in a history that is only ever
added to.

A change is written down before its first step (a tag of the registered model) and struck out after
its last, under a lock that ends with its process: whoever comes next finishes what a kill left.
There is no moment without a champion, and ``previous`` is always the one before. An alias that a
person set in MLflow's page stays.
"""

import getpass
import json
from datetime import UTC, datetime
from uuid import uuid4

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import Field, ValidationError

from model.storage.sealed import fault_point
from tasks.registry.tracking import begin_mlflow_run, tracking_client
from tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    WAS_CHAMPION_TAG,
    find_versions,
    model_tags,
    read_alias,
    unreachable,
)
from tasks.runtime.log import run_logger
from tasks.runtime.records import Check, Record

REASON_TAG = "commerce_clip.promotion"
CHANGE_TAG = "commerce_clip.change_under_way"
HISTORY = "promotions"
MAX_FIGURES = 12


class Change(Record):
    """A move of the alias champion: between which versions, who wanted it, when (UTC), why, and what was measured."""

    key: str
    model: str
    before: int | None
    after: int
    who: str
    when: str
    why: str
    figures: dict[str, float] = Field(default_factory=dict)


def change_champion(
    client: MlflowClient, name: str, before: int | None, after: int, why: str, checks: list[Check]
) -> None:
    """Make a version champion in place of another; the caller holds the registry's lock and has read the champion."""
    _begin(client, _change(name, before, after, why, checks))
    finish_change(client, name)


def _change(name: str, before: int | None, after: int, why: str, checks: list[Check]) -> Change:
    measured = {
        check.name: check.value for check in checks[:MAX_FIGURES] if check.value is not None
    }
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return Change(
        key=uuid4().hex,
        model=name,
        before=before,
        after=after,
        who=getpass.getuser(),
        when=when,
        why=why[:1000],
        figures=measured,
    )


def _begin(client: MlflowClient, change: Change) -> None:
    """Write down what is about to be done; from here on it will be done."""
    fault_point("promote:before_intent")
    client.set_registered_model_tag(change.model, CHANGE_TAG, change.model_dump_json())
    fault_point("promote:after_intent")


def finish_change(client: MlflowClient, name: str) -> None:
    """Do what is written down, however far an earlier try got; the caller holds the registry's
    lock.

    Raises:
        ServiceError: the registry does not answer.
    """
    try:
        _finish(client, name)
    except MlflowException as error:
        raise unreachable("could not set aliases", error) from error


def _finish(client: MlflowClient, name: str) -> None:
    try:
        change = Change.model_validate_json(model_tags(client, name).get(CHANGE_TAG, ""))
    except ValidationError:
        return
    champion = number_of(read_alias(client, name, CHAMPION))
    if not _is_there(client, change):
        run_logger().warning(
            "%s: version %s is gone, so it does not become champion", name, change.after
        )
    elif champion in (change.before, change.after):
        _set_aliases(client, change, champion)
        _add_to_history(client, change)
    else:
        run_logger().warning(
            "%s: a person made version %s champion meanwhile; it stays", name, champion
        )
    client.delete_registered_model_tag(name, CHANGE_TAG)


def _is_there(client: MlflowClient, change: Change) -> bool:
    return any(
        int(version.version) == change.after for version in find_versions(client, change.model, {})
    )


def _set_aliases(client: MlflowClient, change: Change, champion: int | None) -> None:
    name, after = change.model, str(change.after)
    if champion != change.after:
        if change.before is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(change.before))
        fault_point("promote:between_aliases")
        client.set_registered_model_alias(name, CHAMPION, after)
        fault_point("promote:after_alias")
    previous, challenger = (
        number_of(read_alias(client, name, alias)) for alias in (PREVIOUS, CHALLENGER)
    )
    if previous == change.after:
        client.delete_registered_model_alias(name, PREVIOUS)
    if challenger is not None and challenger <= change.after:
        client.delete_registered_model_alias(name, CHALLENGER)
    mark_champion(client, name, change.after)
    leave_reason(client, name, change.after, change.why)
    fault_point("promote:before_strike")


def mark_champion(client: MlflowClient, name: str, number: int) -> None:
    """Leave as tags which version was made champion last, and that this one was."""
    client.set_registered_model_tag(name, WAS_CHAMPION_TAG, str(number))
    client.set_model_version_tag(name, str(number), WAS_CHAMPION_TAG, "true")


def leave_reason(client: MlflowClient, name: str, number: int, reason: str) -> None:
    """Leave as tag and description of a version who decided on it, when, and why."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(
        name, str(number), REASON_TAG, f"{when} {getpass.getuser()}: {reason}"
    )
    client.update_model_version(name, str(number), description=reason)


def _add_to_history(client: MlflowClient, change: Change) -> None:
    """Add a file to the history of a model: an MLflow run of its own whose artifacts are never written again."""
    run_id = begin_mlflow_run(
        client, f"history:{change.model}", f"history of {change.model}", {}, {}
    )
    kept = [file.path for file in client.list_artifacts(run_id, HISTORY)]
    if any(change.key[:8] in path for path in kept):
        return
    number = len(kept) + 1
    client.log_text(
        run_id, change.model_dump_json(indent=2), f"{HISTORY}/{number:06d}-{change.key[:8]}.json"
    )


def history(name: str) -> list[Change]:
    """Return every change of a model's champion, the oldest first.

    Raises:
        ServiceError: the registry does not answer.
    """
    client = tracking_client()
    try:
        run_id = begin_mlflow_run(client, f"history:{name}", f"history of {name}", {}, {})
        paths = sorted(file.path for file in client.list_artifacts(run_id, HISTORY))
        texts = [mlflow.artifacts.load_text(f"runs:/{run_id}/{path}") for path in paths]
    except MlflowException as error:
        raise unreachable("could not read the history", error) from error
    return [Change.model_validate(json.loads(text)) for text in texts]


def number_of(version: ModelVersion | None) -> int | None:
    """Return the number of a version that may not be there."""
    return None if version is None else int(version.version)
