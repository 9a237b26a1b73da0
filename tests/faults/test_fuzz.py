"""Thousands of mutated lines: none is lost, none raises, none takes long, and memory stays flat."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gears import rounds

LINES = rounds(4_000, 20_000)
# A busy machine is no failure: `make fuzz` on a quiet one holds a line to a second.
MAX_LINE_S = 20


@pytest.mark.faults(kind="input: fuzz", trials=LINES)
@pytest.mark.timeout(600)
def test_no_mutated_line_is_lost_or_raises() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--lines",
        str(LINES),
        "--seed",
        "2026",
        "--max-line-s",
        str(MAX_LINE_S),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 exceptions" in done.stdout and not done.stderr
