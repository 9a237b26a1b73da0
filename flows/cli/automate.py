"""`python -m flows automate`: the Prefect server's automations are created again."""

import os

from flows.automations import create_automations
from flows.cli.terminal import print_line
from model.errors import ServiceError


def automate() -> None:
    """Create the automations on the Prefect server again, after a notification block was added.

    Raises:
        ServiceError: no Prefect server is named.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError(
            "there is no Prefect server to automate; start one with `make up`, "
            "or set PREFECT_API_URL"
        )

    for name in create_automations()["automations"]:
        print_line(name)
