"""What crash tests of an ingest run in a child: what the flow does between judging and pushing,
without a server."""

import os
from pathlib import Path

from tasks.data import dvc
from tasks.ingest.ingest import adopt, current_version
from tasks.ingest.staging import Drop, stage
from tasks.runtime.records import Validation


def adopt_drop(project: Path, state: Path, tsv: Path, fault: str | None) -> None:
    """Make a new test split part of the current version; ``fault`` names the point that kills."""
    os.environ["COMMERCE_CLIP_STATE"] = str(state)
    os.environ["FAULT"] = fault or ""
    dvc.ROOT = project
    current = current_version.fn()
    staged = stage(Drop(name="autumn", test=tsv), current)
    adopt.fn(staged, current, Validation(profiles=state, docs=state, counts=[], expectations=1))
