"""How fast training is, measured over groups of steps without waiting for the device."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from model.batches.loading import Batch
from model.towers.towers import Towers
from model.training.flops import flops_a_pair


class Rates(NamedTuple):
    """The last fields of a `StepRecord`."""

    pairs_per_s: float
    data_wait_share: float
    tflops_per_s: float | None
    mfu: float | None
    peak_memory_gb: float | None


class Meter:
    """Measures groups of steps: pairs, seconds, those of them spent waiting, and FLOPs."""

    def __init__(self, towers: Towers, peak_flops: float | None) -> None:
        """Begin a group; ``peak_flops`` is what the device can do a second, where that is known."""
        self.towers, self.device, self.peak_flops = towers, towers.device, peak_flops
        self.start()

    def start(self) -> None:
        """Begin a group."""
        self.since, self.waited, self.pairs = time.monotonic(), 0.0, 0
        self.flops: float | None = 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, measuring how long each is waited for."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def count(self, batch: Batch) -> None:
        """Count the pairs of a step of this process, and their FLOPs at the tokens of the longest caption."""
        self.pairs += len(batch.rows)
        flops = flops_a_pair(self.towers, int(batch.tokens.count_nonzero(dim=1).max()))
        self.flops = (
            None if flops is None or self.flops is None else self.flops + len(batch.rows) * flops
        )

    def read(self, world: int) -> Rates:
        """Return the rates of the group, of as many processes as there are."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        flops = None if self.flops is None else self.flops / seconds
        is_cuda = self.device.type == "cuda"
        return Rates(
            pairs_per_s=self.pairs / seconds * world,
            data_wait_share=min(1.0, self.waited / seconds),
            tflops_per_s=None if flops is None else flops / 1e12,
            mfu=None if flops is None or not self.peak_flops else flops / self.peak_flops,
            peak_memory_gb=torch.cuda.max_memory_allocated(self.device) / 1e9 if is_cuda else None,
        )
