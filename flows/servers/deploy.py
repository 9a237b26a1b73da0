"""The work pool and the deployments of prefect.yaml, on our own Prefect server or another one.

Whoever may ask the server for a run must not choose what the worker's machine executes: the pool's
template takes no command, no environment and no folder from a run. It hands each run the settings
that Prefect reads before any code of ours is loaded.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError

from flows.cli.terminal import print_line
from model.errors import ServiceError
from tasks.pages.text import without_credentials
from tasks.runtime.environment import HEARTBEAT, ROOT, state_folder

POOL = "commerce-clip"
WORKER_COMMAND = f"prefect worker start --pool {POOL} --type process"
DEPLOY_TIMEOUT_S = 600  # 20 s on two idle cores
TEMPLATE = {
    "job_configuration": {
        # Relative: in the folder of the run, which is temporary, until a pull step knows better.
        "env": {"DO_NOT_TRACK": "1", "PREFECT_HOME": "prefect", **HEARTBEAT},
        "stream_output": True,
    },
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


def deploy() -> None:
    """Create work pool, deployments and automations on the Prefect server of PREFECT_API_URL.

    Raises:
        ServiceError: no server is named, it refuses, or not every deployment was made.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError(
            "there is no Prefect server to deploy to; start one with `make up`, "
            "or set PREFECT_API_URL"
        )
    with get_client(sync_client=True) as client:
        create_pool(client)
        print_line(f"work pool {POOL}")
        create_deployments(client, os.environ, state_folder() / "deploy.log")
    print_line("the deployments of prefect.yaml; a worker runs them, started in this folder by")
    print_line(f"    .venv/bin/{WORKER_COMMAND}")


def renew_pool() -> dict[str, str]:
    """Give our template to the pool, which a worker makes with Prefect's: a build step."""
    with get_client(sync_client=True) as client:
        create_pool(client)
    return {"pool": POOL}


def create_pool(client: SyncPrefectClient, name: str = POOL) -> None:
    """Create a work pool of processes with our template, or give the template to it.

    Raises:
        ServiceError: the server does not answer or refuses.
    """
    pool = WorkPoolCreate(name=name, type="process", base_job_template=TEMPLATE)
    try:
        client.create_work_pool(pool, overwrite=True)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, PrefectHTTPStatusError):
            reason = f"status {error.response.status_code}"
        raise ServiceError(
            f"Prefect at {without_credentials(str(client.api_url))} did not take the work pool "
            f"({reason}); check PREFECT_API_URL and PREFECT_API_AUTH_STRING"
        ) from error


def create_deployments(
    client: SyncPrefectClient, environment: Mapping[str, str], log: Path
) -> None:
    """Create or update the deployments of prefect.yaml, with the automations that it builds.

    Raises:
        ServiceError: `prefect deploy` failed or left one out; names the log.
    """
    failed = ServiceError(
        f"prefect.yaml: `prefect deploy --all` failed; {log} says why; repair it and try again"
    )
    with open(log, "wb") as output:
        try:
            subprocess.run(
                [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEPLOY_TIMEOUT_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise failed from error

    # Prefect ends well, too, where prefect.yaml names nothing.
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    wanted = {(each["entrypoint"], each["name"]) for each in yaml.safe_load(text)["deployments"]}
    made = {(each.entrypoint, each.name) for each in client.read_deployments()}
    if not wanted or not wanted <= made:
        raise failed
