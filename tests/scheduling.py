"""Which tests run where and when: files on every core, the longest first.

A file stays in one process, for its tests share fixtures; so does a folder whose files share a
stack of servers.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

# Folders whose tests share a fixture of the session.
ONE_PROCESS = ("tests/integration/stack/", "tests/tasks/registry/remote/")

# The files that take longest, from --durations=0. A long one that begins last keeps one core
# waiting for the other.
LONGEST = (
    "tests/integration/stack/test_first_run.py",
    "tests/faults/test_interrupted_run.py",
    "tests/flows/test_ingest.py",
    "tests/integration/test_embedded.py",
    "tests/faults/test_data_versions.py",
    "tests/integration/test_automations.py",
    "tests/tasks/registry/remote/test_rights.py",
    "tests/test_runs.py",
    "tests/faults/test_killed_ingest.py",
    "tests/flows/test_bad_input.py",
    "tests/faults/test_kill_during_training.py",
    "tests/faults/test_ten_at_once.py",
    "tests/faults/test_fuzz.py",
    "tests/flows/test_configs.py",
    "tests/faults/test_registry.py",
    "tests/tasks/registry/test_zoo.py",
    "tests/tasks/registry/test_register.py",
    "tests/flows/test_stages.py",
    "tests/tasks/promotion/test_lifecycle.py",
    "tests/model/zoo/test_true_shapes.py",
)


class ByFixture(LoadFileScheduling):
    """Hands out files, and folders that share a fixture, as one piece."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in ONE_PROCESS if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))


def longest_first(item: pytest.Item) -> int:
    """Return the place of a test's file in LONGEST; files that are not there come after, in their
    order."""
    file = item.nodeid.split("::", 1)[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)
