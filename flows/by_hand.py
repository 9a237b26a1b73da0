"""What a person does to the champion, and the history of what was done.

Little is imported: who rolls back is in a hurry.
"""

from prefect import flow

from flows.cli.history import print_champions
from flows.heartbeat import require_settings
from flows.parameters import NO_REASON, OUR_MODEL, Reason, RegisteredModel, VersionNumber
from tasks.promotion.promote import promote_by_hand, roll_back
from tasks.registry.aliases import history
from tasks.registry.versions import model_names
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
    require_settings()
    return promote_by_hand(registered_model, version, reason)


@flow(name="rollback")
def rollback(reason: Reason = NO_REASON, registered_model: RegisteredModel = OUR_MODEL) -> Decision:
    """Make the previous champion the champion again."""
    log_sentences()
    require_settings()
    return roll_back(registered_model, reason)


def print_history(registered_model: RegisteredModel = OUR_MODEL) -> None:
    """List every change of the champion: when, who, from which version to which, why.

    Raises:
        ConfigError: there is no such model.
    """
    changes = [change.model_dump() for change in history(registered_model)]
    print_champions(registered_model, changes, model_names())
