"""Tests of a wing without torch load neither torch nor the client of a service."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WINGS = ("pairs", "importers", "storage", "config")
HEAVY = {"torch", "open_clip", "transformers", "prefect", "mlflow", "great_expectations", "dvc"}
COLLECT = f"""
import sys, pytest
status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]])
sys.exit(status or f"loaded: {{sorted({HEAVY} & sys.modules.keys())}}")
"""


def test_collecting_the_tests_of_wings_without_torch_loads_neither_torch_nor_a_service() -> None:
    folders = [f"tests/model/{wing}" for wing in WINGS]
    command = [sys.executable, "-c", COLLECT, *folders]
    collected = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert collected.stderr.strip() == "loaded: []", collected.stdout[-2000:]
