"""Serve Prefect, MLflow or the pages behind the door: `python -m flows.servers.serve mlflow 5000`.

Prefect and MLflow have commands of their own, but neither lets anybody look at a request before
its app does. What their commands would set stands in the environment (`flows.servers.addresses`).
"""

import os
import sys
from importlib.resources import files

import uvicorn
from uvicorn.importer import import_from_string

from flows.servers.door import HOSTS, Door

STORES = ("FILE_STORE", "ARTIFACT_ROOT")
GRACE_S = 5  # an open websocket is not waited for longer


def serve(name: str, port: int) -> None:
    """Serve until a signal comes; Prefect asks for its password itself, the door for the others."""
    credentials: str | None = ":".join(
        os.environ[f"MLFLOW_TRACKING_{each}"] for each in ("USERNAME", "PASSWORD")
    )
    if name == "prefect":
        app = import_from_string("prefect.server.api.server:create_app")(final=True)
        credentials = None
    elif name == "pages":
        app = import_from_string("search.app:create_app")()
    else:
        # Tables are made before the first request, which would time out meanwhile.
        database, artifacts = (os.environ[f"_MLFLOW_SERVER_{each}"] for each in STORES)
        import_from_string("mlflow.server.handlers:initialize_backend_stores")(
            database, database, artifacts
        )
        app = import_from_string("mlflow.server.fastapi_app:app")

    login = "basic" if credentials else name
    page = (files(__package__) / f"login-{login}.html").read_text(encoding="utf-8")
    uvicorn.run(
        Door(app, port, page, credentials),
        host=HOSTS[0],
        port=port,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
