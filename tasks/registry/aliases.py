"""Move the alias ``champion``: each change whole, with its reason, in a history that only grows.

A change is written down before its first step (a tag of the registered model) and struck out after
its last, under a lock that ends with its process: whoever comes next finishes what a kill left.
There is no moment without a champion, and ``previous`` is always the one before. An alias that a
person set in MLflow UI stays.
"""

import getpass
from datetime import UTC, datetime
from uuid import uuid4

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import Field, ValidationError

from model.errors import AccessDenied
from model.storage.sealed import fault_point
from tasks.registry.calls import OUTAGES, longer_calls, registry_call
from tasks.registry.reading import EXPERIMENT, FINGERPRINT_TAG, HISTORY, REASON_TAG
from tasks.registry.tracking import begin_mlflow_run, tracking_client
from tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    WAS_CHAMPION_TAG,
    find_versions,
    may_manage,
    model_tags,
    read_alias,
)
from tasks.runtime.log import run_logger
from tasks.runtime.records import Check, Record

CHANGE_TAG = "commerce_clip.change_under_way"


class ChampionChange(Record):
    """A move of the alias champion: which versions, who wanted it, when (UTC), why, figures."""

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
    """Make a version champion in place of another.

    The caller holds the registry's lock and has read the champion.
    """
    change = ChampionChange(
        key=uuid4().hex,
        model=name,
        before=before,
        after=after,
        who=getpass.getuser(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why[:1000],
        figures={check.name: check.value for check in checks[:12] if check.value is not None},
    )
    # What is written down here will be done, whoever finishes it.
    fault_point("promote:before_intent")
    client.set_registered_model_tag(name, CHANGE_TAG, change.model_dump_json())
    fault_point("promote:after_intent")
    try:
        finish_change(client, name)
    except AccessDenied:
        # What takes the widest right comes first, so nothing has moved.
        client.delete_registered_model_tag(name, CHANGE_TAG)
        raise


def finish_change(client: MlflowClient, name: str) -> None:
    """Do what is written down, however far an earlier try got.

    The caller holds the registry's lock.

    Raises:
        ServiceError: the registry does not answer.
        AccessDenied: the user may not.
    """
    with registry_call("could not set aliases", may_manage(name)), longer_calls():
        try:
            change = ChampionChange.model_validate_json(
                model_tags(client, name).get(CHANGE_TAG, "")
            )
        except ValidationError:
            return

        champion = number_of(read_alias(client, name, CHAMPION))
        known = {int(version.version) for version in find_versions(client, name, {})}
        if change.after not in known:
            run_logger().warning(
                "%s: version %s is gone, so it does not become champion", name, change.after
            )
        elif champion in (change.before, change.after):
            # Who may not write the history must not move aliases.
            run_id = _history_run(client, change.model)
            _set_aliases(client, change, champion)

            # An earlier try may have added the change to the history.
            kept = [file.path for file in client.list_artifacts(run_id, HISTORY)]
            if not any(change.key[:8] in path for path in kept):
                path = f"{HISTORY}/{len(kept) + 1:06d}-{change.key[:8]}.json"
                client.log_text(run_id, change.model_dump_json(indent=2), path)
            client.set_terminated(run_id, "FINISHED")
        else:
            run_logger().warning(
                "%s: a person made version %s champion meanwhile; it stays", name, champion
            )
        client.delete_registered_model_tag(name, CHANGE_TAG)


def _set_aliases(client: MlflowClient, change: ChampionChange, champion: int | None) -> None:
    name, after = change.model, str(change.after)
    # No alias may point where it no longer belongs.
    previous, challenger = (
        number_of(read_alias(client, name, alias)) for alias in (PREVIOUS, CHALLENGER)
    )
    if challenger is not None and challenger <= change.after:
        client.delete_registered_model_alias(name, CHALLENGER)
    if previous == change.after:
        client.delete_registered_model_alias(name, PREVIOUS)

    if champion != change.after:
        if change.before is not None:
            set_alias(client, name, PREVIOUS, str(change.before))
        fault_point("promote:between_aliases")
        set_alias(client, name, CHAMPION, after)
        fault_point("promote:after_alias")

    mark_champion(client, name, change.after)
    leave_reason(client, name, change.after, change.why)
    fault_point("promote:before_strike")


def set_alias(client: MlflowClient, name: str, alias: str, number: str) -> None:
    """Point an alias to a version; where the reply is lost, what it points to now counts.

    Raises:
        MlflowException: it was not set.
    """
    try:
        client.set_registered_model_alias(name, alias, number)
    except MlflowException as error:
        if error.error_code not in OUTAGES:
            raise
        found = read_alias(client, name, alias)
        if found is None or str(found.version) != number:
            raise


def mark_champion(client: MlflowClient, name: str, number: int) -> None:
    """Tag the model with its last champion, and the version as one that was."""
    client.set_registered_model_tag(name, WAS_CHAMPION_TAG, str(number))
    client.set_model_version_tag(name, str(number), WAS_CHAMPION_TAG, "true")


def leave_reason(client: MlflowClient, name: str, number: int, reason: str) -> None:
    """Leave who decided on a version, when, and why as its tag and its description."""
    decided = f"{datetime.now(UTC).isoformat(timespec='seconds')} {getpass.getuser()}: {reason}"
    client.set_model_version_tag(name, str(number), REASON_TAG, decided)
    client.update_model_version(name, str(number), description=reason)


def _history_run(client: MlflowClient, name: str) -> str:
    """Return the MLflow run of a model's history, whose artifacts are never written again."""
    return begin_mlflow_run(client, f"history:{name}", f"history of {name}", {}, {})


def history(name: str) -> list[ChampionChange]:
    """Return every change of a model's champion, the oldest first.

    Raises:
        ServiceError: the registry does not answer.
    """
    client = tracking_client()
    with registry_call("could not read the history"):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = experiment and client.search_runs(
            [experiment.experiment_id],
            f"tags.`{FINGERPRINT_TAG}` = 'history:{name}'",
            max_results=1,
        )
        if not found:
            return []
        run_id = found[0].info.run_id
        paths = sorted(file.path for file in client.list_artifacts(run_id, HISTORY))
        texts = (mlflow.artifacts.load_text(f"runs:/{run_id}/{path}") for path in paths)
        return [ChampionChange.model_validate_json(text) for text in texts]


def number_of(version: ModelVersion | None) -> int | None:
    """Return the number of a version that may not be there."""
    return None if version is None else int(version.version)
