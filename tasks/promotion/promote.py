"""Decide on a version and move the registry's aliases: promote, by hand too, and roll back.

Before an alias moves the champion is read again under the registry's lock
(`tasks.registry.aliases`); a decision that was made against another one is not carried out. A read
that fails is a ServiceError and never "there is no champion", and an alias that a person set in
MLflow UI is the champion to beat.
"""

import os
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from prefect.events import emit_event
from prefect.runtime import flow_run

from model.errors import PromotionRefused, typed
from tasks.promotion.budget import read_budget, spend
from tasks.promotion.traces import keep_traces
from tasks.registry.aliases import (
    change_champion,
    finish_change,
    leave_reason,
    mark_champion,
    number_of,
    set_alias,
)
from tasks.registry.calls import longer_calls, registry_call
from tasks.registry.files import loadable_folder
from tasks.registry.reading import decided_tag
from tasks.registry.register import registry_lock
from tasks.registry.signing import signing_key
from tasks.registry.tracking import MAY_EDIT, tracking_client
from tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    WAS_CHAMPION_TAG,
    aliases_of,
    find_versions,
    had_champion,
    may_manage,
    model_tags,
    read_alias,
    read_version,
)
from tasks.runtime.page import publish_table
from tasks.runtime.records import Decision, Evaluation, Run, Validation, Version
from tasks.runtime.stage import service_task

PROMOTED, HELD_BACK = "model.version.promoted", "model.version.held-back"
ALREADY_CHAMPION = "is the champion already"

# ---- deciding ----


@service_task("gate")
def decide(run: Run, validation: Validation, version: Version, evaluation: Evaluation) -> Decision:
    """Decide on a new version by the checks of the gate; the champion is scored again in this run.

    Raises:
        ServiceError: the registry does not answer; nothing was promoted.
        AccessDenied: the user may not.
        PromotionRefused: the files of a version are missing, damaged or not signed by the key.
    """
    client = tracking_client()
    with registry_lock(version.name, f"gate of version {version.number}"):
        finish_change(client, version.name)

    champion = read_alias(client, version.name, CHAMPION)
    is_champion = champion is not None and int(champion.version) == version.number
    known = read_version(client, version.name, version.number)
    if decided_tag(run.fingerprint) in known.tags:
        # Decided by an earlier try; whatever a person did to the aliases since then stays as it is.
        return Decision(
            version=version.number,
            is_promoted=is_champion,
            aliases=aliases_of(version),
            reason=str(known.description),
            is_settled=True,
        )
    if is_champion:
        return Decision(
            version=version.number,
            is_promoted=True,
            aliases=[CHAMPION],
            reason=ALREADY_CHAMPION,
            champion=version.number,
        )

    if signing_key() is not None:
        # The first champion meets no other for which its files would be read.
        loadable_folder(known)
    decision = _pass_gate(run, validation, version, evaluation, champion)
    publish_decision(decision)
    return decision


def _pass_gate(
    run: Run,
    validation: Validation,
    version: Version,
    evaluation: Evaluation,
    champion: ModelVersion | None,
) -> Decision:
    # A rollback must not wait for torch.
    from tasks.promotion import gate, scoring

    client, limits, seed = tracking_client(), run.config.gate, run.config.seed
    registered = read_version(client, version.name, version.number)
    if registered.run_id == run.mlflow_run_id:
        keep_traces(run, validation)

    # Both are asked what neither has seen; a first champion is held against its base weights.
    against = [] if champion is None else [champion]
    guarded = {*limits.max_slice_fall, *limits.min_slice_recall}
    rows, compared = scoring.choose_pairs(run, validation, [registered, *against], guarded)
    new = scoring.score_version(run, validation, registered, rows)
    checks = gate.check_alone(limits, evaluation, validation, new, compared.columns)
    if champion is None:
        base = scoring.score_base(run, validation, rows)
        checks += gate.check_against(
            limits.model_copy(update={"margin": 0.0, "max_slice_fall": {}}),
            *(evaluation, new, base, compared, seed, gate.BASE_WEIGHTS, None),
        )
        return gate.decide_version(version.number, None, checks, had_champion(client, version.name))

    old = scoring.score_version(run, validation, champion, rows)
    named = f"champion version {champion.version}"
    budget = read_budget(client, version.name, limits, datetime.now(UTC))
    checks += gate.check_against(limits, evaluation, new, old, compared, seed, named, budget)
    return gate.decide_version(version.number, int(champion.version), checks, risk=budget.allowed)


def publish_decision(decision: Decision) -> None:
    """Publish the checks in Prefect UI."""
    verdict = "promote" if decision.is_promoted else "do not promote"
    title = f"Version {decision.version}: {verdict}. {decision.reason}"
    publish_table(check_table(decision), key="gate", description=title)


def check_table(decision: Decision) -> list[dict[str, str]]:
    """Return the checks of a decision as rows for terminal and page."""
    return [
        {
            "check": check.name,
            "measured": "" if check.value is None else f"{check.value:.4g}",
            "limit": "" if check.limit is None else f"{check.limit:.4g}",
            "verdict": "ok" if check.passed else "failed",
            "note": check.note,
        }
        for check in decision.checks
    ]


# ---- carrying it out ----


@service_task("promote")
def promote(run: Run, version: Version, decision: Decision) -> Decision:
    """Carry a decision out, once, and keep its checks with the MLflow run.

    Raises:
        ServiceError: the registry does not answer.
        PromotionRefused: the champion is another by now than the one that was compared.
    """
    if decision.is_settled:
        return decision
    if not carry_out(version, decision, run.fingerprint):
        raise PromotionRefused(
            f"{version.name}: the champion changed while version {version.number} was decided on; "
            "run again"
        )

    client, run_id = tracking_client(), run.mlflow_run_id
    with registry_call("could not keep the decision", MAY_EDIT), longer_calls():
        client.log_text(run_id, decision.model_dump_json(indent=2), "gate/decision.json")
        client.set_tag(
            run_id, "commerce_clip.gate", "promoted" if decision.is_promoted else "held back"
        )
        client.set_tag(run_id, "commerce_clip.gate_reason", decision.reason[:4000])
    announce_decision(version.name, decision)
    return decision


def announce_decision(name: str, decision: Decision) -> None:
    """Emit the Prefect event that notifications wait for, where there is a server to wait on."""
    if not (flow_run.id or os.environ.get("PREFECT_API_URL")):
        return

    emit_event(
        PROMOTED if decision.is_promoted else HELD_BACK,
        resource={
            "prefect.resource.id": f"commerce-clip.model.{name}",
            "prefect.resource.name": name,
        },
        payload={
            "version": decision.version,
            "before": decision.champion,
            "reason": decision.reason,
        },
    )


def carry_out(version: Version, decision: Decision, mark: str) -> bool:
    """Set aliases and tags as decided, or return False where the champion is another by now.

    Raises:
        ServiceError: the registry does not answer.
    """
    client, name, number = tracking_client(), version.name, version.number
    lock = registry_lock(name, f"promotion of version {number}")
    with registry_call("could not set aliases", may_manage(name)), longer_calls(), lock:
        finish_change(client, name)
        champion = number_of(read_alias(client, name, CHAMPION))
        # An earlier try may have ended between the alias and the tags.
        is_done = decision.is_promoted and champion == number
        if champion != decision.champion and not is_done:
            return False

        if decision.is_promoted and not is_done:
            change_champion(client, name, champion, number, decision.reason, decision.checks)
        elif CHALLENGER in decision.aliases:
            set_alias(client, name, CHALLENGER, str(number))
        if decision.is_promoted:
            mark_champion(client, name, number)
        leave_reason(client, name, number, decision.reason)
        if decision.risk:
            spend(client, name, mark, decision.risk)
        client.set_model_version_tag(name, str(number), decided_tag(mark), "true")
    return True


def promote_by_hand(name: str, number: int, reason: str) -> Decision:
    """Make a version champion because a person wants it, and announce it.

    Raises:
        PromotionRefused: there is no such version, or its files are not what was registered.
        ServiceError: the registry does not answer.
    """
    client = tracking_client()
    loadable_folder(read_version(client, name, number))
    return _move(client, name, number, f"by hand: {reason}")


def roll_back(name: str, reason: str) -> Decision:
    """Make the version before the champion the champion again, and announce it.

    That is ``previous``, or where a person moved the alias in MLflow UI, the one that was champion
    until then.

    Raises:
        PromotionRefused: there is no such version, or its files are not what was registered.
        ServiceError: the registry does not answer.
    """
    client = tracking_client()
    with registry_lock(name, "a rollback"):
        finish_change(client, name)

    champion, previous = read_alias(client, name, CHAMPION), None
    last = model_tags(client, name).get(WAS_CHAMPION_TAG)
    if champion is not None and last != str(champion.version):
        # The last champion may have been deleted.
        found = find_versions(client, name, {})
        previous = next((version for version in found if str(version.version) == last), None)
    previous = previous or read_alias(client, name, PREVIOUS)
    if previous is None:
        raise PromotionRefused(
            f"{name}: no version has the alias {PREVIOUS}; "
            f"name one with `{typed('promote --version N')}`"
        )
    loadable_folder(previous)
    return _move(client, name, int(previous.version), f"by hand: rollback, {reason}")


def _move(client: MlflowClient, name: str, number: int, reason: str) -> Decision:
    lock = registry_lock(name, f"promotion of version {number}")
    with registry_call("could not set aliases", may_manage(name)), longer_calls(), lock:
        finish_change(client, name)
        champion = number_of(read_alias(client, name, CHAMPION))
        is_promoted = champion != number
        if is_promoted:
            change_champion(client, name, champion, number, reason, [])
            leave_reason(client, name, number, reason)
    decision = Decision(
        version=number,
        is_promoted=is_promoted,
        aliases=[CHAMPION],
        reason=reason if is_promoted else ALREADY_CHAMPION,
        champion=champion,
    )
    if is_promoted:
        announce_decision(name, decision)
    return decision
