"""The champion as a model on this machine, to stand beside a new one in tables and galleries."""

from mlflow.exceptions import MlflowException

from model.errors import CheckpointError
from tasks.registry.files import registered_model
from tasks.registry.versions import champion_origin
from tasks.runtime.log import run_logger
from tasks.runtime.records import TrainedModel


def champion_model(name: str) -> TrainedModel | None:
    """Return the champion; None where there is none, or its files cannot be had, which is then
    said.

    Showing it is no decision: whether it can be compared and must be healed, the gate says.

    Raises:
        ServiceError: the registry does not answer.
    """
    origin = champion_origin(name)
    if origin is None:
        return None
    try:
        return registered_model(origin[1])
    except (CheckpointError, MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        run_logger().warning("champion version %d is not shown: %s", origin[1].number, reason)
        return None
