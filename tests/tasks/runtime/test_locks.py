import signal
import subprocess
from pathlib import Path

import pytest

from model.errors import DataError
from tasks.runtime.locks import INGEST, held_descriptors, locked
from tests.projects import child

HOLD = """
import time
from tasks.runtime.locks import INGEST, locked
with locked(INGEST, "ingest autumn"):
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path))
    return tmp_path


def test_a_second_ingest_is_refused_and_told_who_holds_the_lock_until_that_one_is_killed(
    state: Path,
) -> None:
    process = child(HOLD, state=state)
    assert process.stdout is not None
    while "holding" not in process.stdout.readline():
        assert process.poll() is None
    refusal = rf"ingest autumn \(process {process.pid}, since 20.*\) is at work"
    with pytest.raises(DataError, match=refusal), locked(INGEST, "ingest winter"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with locked(INGEST, "ingest winter"):
        pass


def test_a_command_that_outlives_a_killed_process_keeps_its_lock(state: Path) -> None:
    with locked(INGEST, "ingest autumn"):
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=held_descriptors())
    with pytest.raises(DataError, match="ingest autumn"), locked(INGEST, "ingest winter"):
        pass
    orphan.kill()
    orphan.wait()
    with locked(INGEST, "ingest winter"):
        pass


def test_a_lock_can_be_taken_again_when_its_block_has_ended(state: Path) -> None:
    for name in ("one", "two"):
        with locked(INGEST, name), pytest.raises(DataError, match=name), locked(INGEST, "another"):
            pass
