"""What a command costs before it does anything, against the imports that it does without.

Usage: python benchmarks/commands.py [--rounds 5]

A tiny model is trained once into a state folder of its own (two minutes). Then every command that
has little to do runs in turn with ``python -c "import prefect, mlflow"``, medians of the rounds in
one run; a table has the processor seconds of all of them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.support.measure import print_bar
from tasks.runtime.environment import ROOT

PYTHON = [sys.executable, "-m", "flows"]
PEER = "import prefect, mlflow"
KNOBS = ["--set", "pretrain.epochs=0", "--finetune-epochs", "1"]
RETRAIN = ["retrain", *KNOBS]
# What answers without Prefect and MLflow: at most this share of their import's wall time.
QUICK = {
    "retrain, nothing new": RETRAIN,
    "history": ["history"],
    "data log": ["data", "log"],
    "data status": ["data", "status"],
}
MOST_OF_IMPORT, MOST_CORE_S = 0.35, 1.0
MISTAKES = {
    "unknown key": ["retrain", "--set", "finetune.epoch=2"],
    "wrong config": ["retrain", "--config", "samlpe"],
    "missing file": ["ingest", "--name", "new", "--train", "nowhere.tsv"],
    "missing folder": ["retrain", "--data", "nowhere"],
    "impossible source": ["models", "convert", "nobody", "--to", "easynlp", "--out", "out"],
    "no such model": ["history", "--registered-model", "nobody"],
}
OTHERS = {
    "--help": ["--help"],
    "models list": ["models", "list"],
    "import, bad option": ["import", "csv", ".", "--out", "out", "--set", "a=b"],
}


class Cost(NamedTuple):
    """Seconds of one run of a command: of the clock and of the processor."""

    wall: float
    core: float


def cost(command: Sequence[str], environment: dict[str, str], code: int = 0) -> Cost:
    """Run a command and return what it cost; it must end with ``code``."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure, print the table, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    with tempfile.TemporaryDirectory() as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "MLFLOW_"))
        } | {"COMMERCE_CLIP_STATE": folder, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}
        environment |= {"PREFECT_HOME": str(Path(folder) / "prefect")}
        cost([*PYTHON, *RETRAIN], environment)

        measured = defaultdict[str, list[Cost]](list)
        for _ in range(rounds):
            measured[PEER].append(cost([sys.executable, "-c", PEER], environment))
            for name, words in {**QUICK, **OTHERS}.items():
                code = int("bad" in name)
                measured[name].append(cost([*PYTHON, *words], environment, code))
            for name, words in MISTAKES.items():
                measured[name].append(cost([*PYTHON, *words], environment, 1))

    middle = {
        name: Cost(*(median(values) for values in zip(*costs, strict=True)))
        for name, costs in measured.items()
    }
    peer = middle[PEER]
    print(f"{'command':<24} {'wall s':>8} {'core s':>8} {'of import':>10}")
    for name, spent in middle.items():
        print(f"{name:<24} {spent.wall:8.2f} {spent.core:8.2f} {spent.wall / peer.wall:10.2f}")
    for name in QUICK:
        print_bar(f"{name}: wall / import", middle[name].wall / peer.wall, "<=", MOST_OF_IMPORT)
    for name in MISTAKES:
        print_bar(f"{name}: processor s", middle[name].core, "<=", MOST_CORE_S)


if __name__ == "__main__":
    main()
