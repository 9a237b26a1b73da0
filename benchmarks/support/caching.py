"""One process that updates towers by a batch, plain or by gradient caching, and prints seconds and
bytes.

python -m benchmarks.support.caching <model> <batch> <micro batch, 0 for plain> <steps>
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.support.measure import ROUNDS
from model.batches.loading import Batch
from model.config.sections import ModelConfig, StageConfig
from model.towers.create import create_towers
from model.towers.towers import Towers
from model.training.objective import Objective
from model.training.optimizer import make_optimizer
from model.training.update import Updater

ROOT = Path(__file__).resolve().parents[2]
PLAIN = 0


@dataclass(frozen=True)
class StepCost:
    """A step: its seconds of one core, the process's peak memory during it, and its memory before.

    ``imported_bytes`` are what the libraries alone held, before there was a model.
    """

    seconds: float
    peak_bytes: int
    resting_bytes: int
    imported_bytes: int

    @property
    def training_bytes(self) -> int:
        """The peak of weights, moments, gradients, activations and inputs."""
        return self.peak_bytes - self.imported_bytes


@dataclass(frozen=True)
class CachingCost:
    """Steps of the whole batch at once and by gradient caching, one each a round."""

    plain: list[StepCost]
    cached: list[StepCost]

    def times_seconds(self) -> float:
        """Compute how many times the plain step's time caching takes, the median of the rounds."""
        return statistics.median(
            ours.seconds / own.seconds for own, ours in zip(self.plain, self.cached, strict=True)
        )

    def times_peak(self) -> float:
        """Compute the same of the peak memory, the libraries' own left out."""
        return statistics.median(
            ours.training_bytes / own.training_bytes
            for own, ours in zip(self.plain, self.cached, strict=True)
        )


def caching_cost(
    batch: int, micro_batch: int, model: str, rounds: int = ROUNDS, steps: int = 1
) -> CachingCost:
    """Measure float32 steps of a model on the CPU, plain and cached in turns, a process each."""
    found = CachingCost([], [])
    for _ in range(rounds):
        found.plain.append(_step_cost(batch, PLAIN, model, steps))
        found.cached.append(_step_cost(batch, micro_batch, model, steps))
    return found


def _step_cost(batch: int, micro_batch: int, model: str, steps: int) -> StepCost:
    arguments = [model, str(batch), str(micro_batch), str(steps)]
    command = [sys.executable, "-m", "benchmarks.support.caching", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Take the steps after a small one that makes the optimiser's moments, print their cost."""
    model, batch, micro_batch, steps = sys.argv[1], *map(int, sys.argv[2:5])
    # Threads that wait for each other on a busy machine burn processor seconds.
    torch.set_num_threads(1)
    imported = _status_bytes("VmRSS:")

    towers = create_towers(ModelConfig(name=model), "cpu")
    config = StageConfig(batch_size=batch, micro_batch_size=micro_batch or None)
    objective = Objective(towers, config, None)
    towers.clip.train()
    update = Updater(towers, objective, make_optimizer(towers.clip, objective, config), config)
    update(_drawn(towers, 2), None)

    ready = _drawn(towers, batch)
    resting = _forget_peak()
    start = time.process_time()
    for _ in range(steps):
        update(ready, None)
    seconds = (time.process_time() - start) / steps
    cost = StepCost(seconds, _status_bytes("VmHWM:"), resting, imported)
    print(json.dumps(asdict(cost)))


def _drawn(towers: Towers, pairs: int) -> Batch:
    """Draw a batch of noise; every caption fills the context."""
    generator = torch.Generator().manual_seed(0)
    side = towers.image_size
    images = torch.randint(0, 256, (pairs, 3, side, side), dtype=torch.uint8, generator=generator)
    first = towers.tokenizer(["a"])
    tokens = torch.randint(1, int(first.max()) - 1, (pairs, first.shape[1]), generator=generator)
    tokens[:, -1] = first.max()
    return Batch(np.arange(pairs), images, tokens, torch.arange(2 * pairs).reshape(pairs, 2))


def _forget_peak() -> int:
    """Let the kernel begin anew with this process's peak, and return what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS:")


def _status_bytes(account: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(account))


if __name__ == "__main__":
    main()
