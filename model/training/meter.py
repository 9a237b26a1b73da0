"""How fast training is, and how much of its device it uses: rates of groups of steps, and FLOPs.

FLOPs are counted as is usual: a multiplication and its addition are two, only products count, and
training takes three times the forward pass (which overstates the patch embedding alone: pixels get
no gradient). Torch counts them in open_clip's own passes, so what `model.towers.passes` leaves out
of the last blocks counts as done, and what gradient caching or activation checkpointing compute
again does not count.

Source: Chowdhery et al. 2022, PaLM, appendix B (model FLOP utilisation).
"""

import copy
import time
import timeit
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from model.batches.loading import Batch
from model.towers.towers import Towers


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
        self._device, self._peak_flops, self._pair_flops = (
            towers.device,
            peak_flops,
            PairFlops(towers),
        )
        self.start()

    def start(self) -> None:
        """Begin a group."""
        self._since, self._waited, self._pairs = time.monotonic(), 0.0, 0
        self._flops: float | None = 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, measuring how long each is waited for."""
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def count(self, batch: Batch) -> None:
        """Count the pairs of a step of this process, and their FLOPs at the longest caption.

        What a locked tower computed before counts nowhere, so those steps have no FLOPs.
        """
        self._pairs += len(batch.rows)
        is_locked = (each.is_floating_point() and each.ndim == 2 for each in batch[1:3])
        if any(is_locked):
            self._flops = None
            return
        flops = self._pair_flops(int(batch.tokens.count_nonzero(dim=1).max()))
        self._flops = (
            None if flops is None or self._flops is None else self._flops + len(batch.rows) * flops
        )

    def read(self, world: int) -> Rates:
        """Compute the rates of the group, of as many processes as there are."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        flops = None if self._flops is None else self._flops / seconds
        is_cuda = self._device.type == "cuda"
        return Rates(
            pairs_per_s=self._pairs / seconds * world,
            data_wait_share=min(1.0, self._waited / seconds),
            tflops_per_s=None if flops is None else flops / 1e12,
            mfu=None if flops is None or not self._peak_flops else flops / self._peak_flops,
            peak_memory_gb=torch.cuda.max_memory_allocated(self._device) / 1e9 if is_cuda else None,
        )


class PairFlops:
    """Counts the FLOPs of training on one pair: once for the image, once for each caption length.

    The towers pass over tensors without values, which computes nothing and draws no random number:
    a tenth of a second for each length that is met, of which product titles have about ten.
    """

    def __init__(self, towers: Towers) -> None:
        """Copy the towers without their values."""
        self._hollow, self._side = Hollow(towers.clip), towers.image_size
        self._by_length: dict[int, int] = {}

    def __call__(self, tokens: int) -> float | None:
        """Count at a caption of so many tokens; None for towers whose way depends on values."""
        try:
            if tokens not in self._by_length:
                self._by_length[tokens] = self._hollow.flops(lambda clip: _read(clip, tokens))
            return 3.0 * (self._image_flops + self._by_length[tokens])
        except RuntimeError:  # torch's own, where a value is asked for
            return None

    @cached_property
    def _image_flops(self) -> int:
        return self._hollow.flops(
            lambda clip: clip.encode_image(torch.empty(1, 3, self._side, self._side))
        )


def _read(clip: Any, tokens: int) -> None:
    """Let open_clip's text tower read a caption of so many tokens."""
    tower = getattr(clip, "text", clip)
    # Its causal towers read their whole context, where ours stop at the longest caption.
    if getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None:
        width = tower.positional_embedding.shape[1]
        tower.attn_mask = torch.empty(tokens, tokens)
        tower.positional_embedding = torch.nn.Parameter(torch.empty(tokens, width))
    clip.encode_text(torch.ones(1, tokens, dtype=torch.int64))


class Hollow:
    """A copy of a model whose tensors have shapes and no values, in eval mode on the CPU."""

    def __init__(self, clip: torch.nn.Module) -> None:
        """Copy the modules; their weights are not copied on the way.

        All weights ask for gradients: without, torch fuses attention into a product that it does
        not count.
        """
        self._mode = FakeTensorMode()
        with self._mode:
            # By the ids under which deepcopy looks up what it has copied already.
            empty: dict[int, Any] = {
                id(value): torch.empty(value.shape, dtype=value.dtype) for value in clip.buffers()
            }
            empty |= {
                id(value): torch.nn.Parameter(torch.empty(value.shape, dtype=value.dtype))
                for value in clip.parameters()
            }
        self._clip = copy.deepcopy(clip, empty).eval()

    def flops(self, work: Callable[[Any], object]) -> int:
        """Count the FLOPs of all products in some work of the model."""
        with self._mode, FlopCounterMode(display=False) as counter:
            work(self._clip)
        return int(counter.get_total_flops())


def measure_peak_flops(device: torch.device, precision: str) -> float:
    """Measure the FLOPs a second of the device's best square matrix product, in about 0.1 s.

    Products grow until one takes 5 ms, so that small and large devices are both busy.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def multiply(factor: torch.Tensor) -> None:
        torch.mm(factor, factor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    best = 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        factor = torch.ones(size, size, device=device, dtype=dtype)
        # The first product sets the library up.
        _, *seconds = timeit.repeat(partial(multiply, factor), number=1, repeat=4)
        best = max(best, 2 * size**3 / min(seconds))
        if min(seconds) > 0.005:
            break
    return best
