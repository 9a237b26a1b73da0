"""The app behind http://127.0.0.1:8600: the start page, and the pages under the state folder.

Only what people look at is served: pages, charts and tables in the folders of runs and of data
versions. Weights, databases, passwords and lists of folders are not. A page runs nothing and loads
nothing from elsewhere, whatever stands in it: a policy forbids it to the browser, of the Data Docs
too, which would ask three other hosts for their style.
"""

from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from starlette.requests import Request
from starlette.responses import Response

from search.start import start_page
from tasks.runtime.environment import PAGES_PATH, state_folder

FOLDERS = ("runs", "data")
MEDIA_TYPES = {
    ".css": "text/css",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tsv": "text/plain",
}
PAGE_POLICY = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app() -> FastAPI:
    """Make the app; it asks state folder, registry and Prefect anew at each request."""
    app = FastAPI(title="commerce-clip", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_class=HTMLResponse)
    def start() -> str:
        return start_page()

    @app.get(f"{PAGES_PATH}/{{path:path}}")
    def page(path: str) -> FileResponse:
        file = find_page(state_folder(), path)
        if file is None:
            raise HTTPException(404, "no such page")
        return FileResponse(file, media_type=MEDIA_TYPES[file.suffix])

    @app.get("/health")
    def health() -> str:
        return "OK"

    @app.middleware("http")
    async def keep_policy(request: Request, call_next: object) -> Response:
        response: Response = await call_next(request)  # type: ignore[operator]
        response.headers.update(PAGE_POLICY)
        return response

    return app


def find_page(state: Path, path: str) -> Path | None:
    """Return the file that a path under the state folder names, None where it is not served.

    A path that leads out of the folders, by `..` or by a link, is none.
    """
    if "\0" in path or Path(path).suffix not in MEDIA_TYPES:
        return None
    file = (state / path).resolve()
    folders = [(state / name).resolve() for name in FOLDERS]
    is_served = file.is_file() and any(file.is_relative_to(folder) for folder in folders)
    return file if is_served else None
