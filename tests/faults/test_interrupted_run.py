"""A run that is stopped, killed and run again ends with the same table as one that nothing
disturbed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from model.errors import typed
from tasks.runtime.environment import ROOT, settings

pytestmark = [
    pytest.mark.faults,
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("prefect_server"),
]

CONFIG = """
name: interrupted
workers: 1
model: {name: configs/models/tiny-vit.json}
pretrain: {epochs: 6, batch_size: 16, concept_weight: 1.0, min_concept_count: 3}
finetune: {epochs: 6, batch_size: 16, concept_weight: 1.0, min_concept_count: 3}
"""
DEADLINE_S = 300
# A shell makes background jobs, and so the tests' children, ignore Ctrl-C; this undoes it, then
# runs `-m flows`.
LISTENING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("flows", run_name="__main__")
"""


class Runner:
    """Starts `commerce-clip retrain` in a state folder of its own."""

    def __init__(self, state: Path, pairs: Path) -> None:
        self.state, self.pairs = state, pairs
        state.mkdir()
        self.config = state.parent / "interrupted.yaml"
        self.config.write_text(CONFIG)

    def start(self) -> subprocess.Popen[str]:
        own = {
            name: value.replace(os.environ["COMMERCE_CLIP_STATE"], str(self.state))
            for name, value in settings().items()
        }
        places = {
            "COMMERCE_CLIP_STATE": str(self.state),
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        }
        command = [
            sys.executable,
            "-c",
            LISTENING,
            "retrain",
            "--config",
            str(self.config),
            "--data",
            str(self.pairs),
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | own | places,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def signal_after_checkpoint(self, stage: str, number: signal.Signals) -> tuple[int, str]:
        process = self.start()
        deadline = time.monotonic() + DEADLINE_S
        while not list(self.state.glob(f"runs/*/{stage}/checkpoints/step-?????????")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"no checkpoint of {stage} in time"
            time.sleep(0.02)
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE_S)
        return process.returncode, output

    def finish(self) -> str:
        process = self.start()
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        return output

    def result(self, name: str) -> dict[str, object]:
        (path,) = self.state.glob(f"runs/*/{name}")
        content: dict[str, object] = json.loads(path.read_text())
        return content


def run_states() -> list[str]:
    """Return the states of all flow runs that the server knows, the latest first."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    latest_first = sorted(runs, key=lambda run: run.expected_start_time, reverse=True)
    return [run.state_type.value for run in latest_first if run.state_type]


def test_a_stopped_and_killed_run_goes_on_and_ends_with_the_same_table(
    miniature: Path, tmp_path: Path
) -> None:
    disturbed = Runner(tmp_path / "disturbed", miniature)
    code, output = disturbed.signal_after_checkpoint("pretrain", signal.SIGINT)
    assert code == 130
    assert f"Go on with: {typed('retrain')} --config {disturbed.config}" in output
    code, output = disturbed.signal_after_checkpoint("finetune", signal.SIGTERM)
    assert code == 143 and "Go on with: " in output
    assert run_states()[:2] == ["CRASHED", "CRASHED"]
    code, _ = disturbed.signal_after_checkpoint("finetune", signal.SIGKILL)
    assert code == -signal.SIGKILL
    output = disturbed.finish()
    assert re.search(r"^pretrain +was finished before", output, re.MULTILINE)

    unbroken = Runner(tmp_path / "unbroken", miniature)
    unbroken.finish()
    assert disturbed.result("evaluate/figures.json") == unbroken.result("evaluate/figures.json")
    for key in ("weights_sha256", "best_epoch", "valid_mean_recall"):
        assert (
            disturbed.result("finetune/result.json")[key]
            == unbroken.result("finetune/result.json")[key]
        )
    assert not list(disturbed.state.rglob("*.tmp"))
