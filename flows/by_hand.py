"""What a person does to the champion. Little is imported: who rolls back is in a hurry."""

from prefect import flow

from flows.parameters import NO_REASON, OUR_MODEL, Reason, RegisteredModel, VersionNumber
from tasks.promotion.promote import announce_decision, promote_by_hand, roll_back
from tasks.runtime.log import log_sentences
from tasks.runtime.records import Decision


@flow(name="promote")
def promote(
    version: VersionNumber,
    reason: Reason = NO_REASON,
    registered_model: RegisteredModel = OUR_MODEL,
) -> Decision:
    """Make a registered version champion by hand."""
    log_sentences()
    decision = promote_by_hand(registered_model, version, reason)
    if decision.is_promoted:
        announce_decision(registered_model, decision)
    return decision


@flow(name="rollback")
def rollback(reason: Reason = NO_REASON, registered_model: RegisteredModel = OUR_MODEL) -> Decision:
    """Make the previous champion the champion again."""
    log_sentences()
    decision = roll_back(registered_model, reason)
    if decision.is_promoted:
        announce_decision(registered_model, decision)
    return decision
