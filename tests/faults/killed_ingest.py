"""What crash tests of an ingest run in a child: what the flow does between judging and pushing,
without a server."""

import os
from pathlib import Path

from tasks.data import dvc
from tasks.ingest.ingest import commit_version, current_version
from tasks.ingest.staging import Drop, stage_drop
from tasks.runtime.records import Validation


def commit_drop(project: Path, state: Path, tsv: Path, fault: str | None) -> None:
    """Make a new test split part of the current version; ``fault`` names the point that kills."""
    os.environ["COMMERCE_CLIP_STATE"] = str(state)
    os.environ["FAULT"] = fault or ""
    dvc.ROOT = project
    current = current_version.fn()
    staged = stage_drop(Drop(name="autumn", test=tsv), current)
    validation = Validation(profiles=state, docs=state, counts=[], expectations=1)
    commit_version.fn(staged, current, validation)
