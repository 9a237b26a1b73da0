"""The start page: what serves, what ran, which data there are, what comes next, where all that is.

Everything is read when the page is asked for, from the state folder, the registry and Prefect's
server. What does not answer is left out with a sentence; the page never fails.
"""

import os
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException

from tasks.data.card import rows_text
from tasks.data.history import KnownVersion, current_version_or_none, known_versions
from tasks.pages.html import render
from tasks.pages.text import counted
from tasks.registry.reading import (
    CHALLENGER,
    CHAMPION,
    DATA_VERSION_TAG,
    PREVIOUS,
    REASON_TAG,
    Registry,
    read_registry,
)
from tasks.runtime.environment import data_page, page_path, state_folder

ROLES = {
    CHAMPION: "serves",
    CHALLENGER: "the newest that did not become champion",
    PREVIOUS: "served before; rollback brings it back",
}
RUNS, VERSIONS = 12, 12
PLANNED_RUNS = 200
# Pages of a run, in the order in which they are read.
RUN_PAGES = {
    "evaluate/report.html": "report",
    "evaluate/gallery.html": "gallery",
    "finetune/training.html": "fine-tuning",
    "pretrain/training.html": "pretraining",
}


class Page(NamedTuple):
    """A link: where it leads, and its text."""

    address: str
    text: str


class ServedVersion(NamedTuple):
    """A version that an alias points to, and what was decided on it."""

    alias: str
    role: str
    name: str
    age: str
    reason: str
    data_version: str


def start_page() -> str:
    """Render the page."""
    registry = read_registry()
    models = sorted(registry.aliases) if registry else []
    current = current_version_or_none()
    versions = list(reversed(known_versions()))[:VERSIONS]

    # In the order of the page.
    return render(
        "start.html.jinja",
        title="commerce-clip",
        is_known=registry is not None,
        served=[each for model in models for each in _served(model, registry)] if registry else [],
        runs=_newest_runs(),
        versions=[_version_row(known, known.version == current) for known in versions],
        schedule=_next_runs(),
        services=_services(),
    )


def _served(model: str, registry: Registry) -> list[ServedVersion]:
    """List the versions of a model that have an alias, the champion first."""
    tags = {each.number: each.tags for each in registry.versions if each.name == model}
    found = []

    # A version that was deleted leaves its alias behind for a moment.
    for alias, role in ROLES.items():
        number = registry.aliases[model].get(alias)
        if number in tags:
            decided, _, reason = tags[number].get(REASON_TAG, "").partition(" ")
            found.append(
                ServedVersion(
                    alias,
                    role,
                    f"{model} version {number}",
                    _age(decided),
                    reason,
                    tags[number].get(DATA_VERSION_TAG, "")[:8],
                )
            )
    return found


def _newest_runs() -> list[dict[str, Any]]:
    """List the runs that left a page, the last written first."""
    found = []
    for folder in (state_folder() / "runs").glob("*/"):
        pages = [folder / page for page in RUN_PAGES if (folder / page).is_file()]
        if pages:
            written = max(page.stat().st_mtime for page in pages)
            texts = [RUN_PAGES[page.relative_to(folder).as_posix()] for page in pages]
            found.append((written, folder.name, list(map(Page, map(page_path, pages), texts))))

    return [
        {
            "name": name,
            "when": datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M"),
            "pages": pages,
        }
        for written, name, pages in sorted(found, reverse=True)[:RUNS]
    ]


def _version_row(known: KnownVersion, is_current: bool) -> dict[str, Any]:
    page = data_page(known.version)
    return {
        "version": known.version[:8],
        "name": known.name,
        "created": known.created[:16].replace("T", " "),
        "rows": rows_text(known.card.splits) if known.card else "?",
        "faults": counted(known.card.faults) if known.card else "?",
        "is_current": is_current,
        "page": page_path(page) if page.is_file() else "",
    }


def _next_runs() -> list[dict[str, str]] | None:
    """List the next scheduled run of each deployment; None where Prefect does not answer."""
    if not os.environ.get("PREFECT_API_URL"):
        return []
    scheduled = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    )
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(
                flow_run_filter=scheduled,
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=PLANNED_RUNS,
            )
            flows = {flow.id: flow.name for flow in client.read_flows()}
            names: dict[UUID | None, str] = {
                each.id: f"{flows[each.flow_id]}/{each.name}" for each in client.read_deployments()
            }
    except (httpx.HTTPError, PrefectException, RuntimeError):
        return None

    first: dict[str, str] = {}
    for run in runs:
        name = names.get(run.deployment_id, "by hand")
        first.setdefault(name, f"{run.expected_start_time:%Y-%m-%d %H:%M}")
    return [{"deployment": name, "when": when} for name, when in first.items()]


def _services() -> list[Page]:
    """Link Prefect's UI and the experiment in MLflow, where servers are known."""
    found = []
    if api := os.environ.get("PREFECT_API_URL"):
        found.append(Page(api.removesuffix("/api"), "Prefect: runs, schedules, automations"))
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith("http"):
        found.append(Page(f"{tracking}/#/models", "MLflow: registered versions"))
    return found


def _age(moment: str) -> str:
    """Name how long ago a moment was, in days or hours; nothing where none is known."""
    try:
        passed = datetime.now(UTC) - datetime.fromisoformat(moment)
    except (ValueError, TypeError):
        return ""
    hours = max(0, int(passed.total_seconds() // 3600))
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours" if hours > 1 else "an hour"
