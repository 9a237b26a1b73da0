"""Several processes that train one model, or one process that is alone.

Only `launched_group` knows of a launcher, and that only torchrun's environment. All else reads
torch.distributed's state, and in a process that is alone costs nothing and changes nothing.

Gradients are averaged by one call after the backward pass, not by DistributedDataParallel: its
hooks fire at every backward pass, of which gradient caching has one a micro-batch and one before,
in which the scales alone get theirs (DECISIONS 22). The price is that sending does not overlap with
the backward pass.

Shapes: L rows of one process, B of all, rank by rank.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from model import errors
from model.errors import CheckpointError, CommerceClipError, PeerLost

_Answer = TypeVar("_Answer")

BUCKET_NUMBERS = 16_000_000


@contextmanager
def launched_group(timeout: timedelta = timedelta(hours=12)) -> Iterator[None]:
    """Join the processes that torchrun started while the block runs; alone, do nothing.

    ``timeout`` is the longest that a process waits for another, which may be validating the data;
    one that ended is noticed at once, because its connections close.

    Raises:
        PeerLost: the others did not come.
    """
    if (
        int(os.environ.get("WORLD_SIZE", 1)) == 1
        or "RANK" not in os.environ
        or distributed.is_initialized()
    ):
        yield
        return

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        backend = "cpu:gloo,cuda:nccl"
    _together(lambda: distributed.init_process_group(backend, timeout=timeout))

    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank_of_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) of one that is alone."""
    is_grouped = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if is_grouped else (0, 1)


def is_main() -> bool:
    """Decide whether this process is the one that validates, writes and reports."""
    return rank_of_world()[0] == 0


def barrier() -> None:
    """Wait until every process is here."""
    if rank_of_world()[1] > 1:
        _together(distributed.barrier)


def broadcast_object(value: Any) -> Any:
    """Give every process the main one's value, which must be JSON's: torch's own way is pickles."""
    if rank_of_world()[1] == 1:
        return value

    # The length first, so that the others can make room.
    encoded = json.dumps(value).encode() if is_main() else b""
    length = torch.tensor(len(encoded), device=_message_device())
    _together(lambda: distributed.broadcast(length, src=0))
    message = (
        torch.frombuffer(bytearray(encoded), dtype=torch.uint8).to(length.device)
        if is_main()
        else torch.zeros(int(length), dtype=torch.uint8, device=length.device)
    )
    _together(lambda: distributed.broadcast(message, src=0))
    return json.loads(bytes(message.tolist()))


def ask_main(question: Callable[[], _Answer]) -> _Answer:
    """Give every process the main one's answer (JSON's values), or raise its error in all."""
    if rank_of_world()[1] == 1:
        return question()

    reply: dict[str, Any] = {}
    if is_main():
        try:
            reply["answer"] = question()
        except CommerceClipError as error:
            reply.update(error=type(error).__name__, message=str(error))
    reply = broadcast_object(reply)
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["message"])
    return cast("_Answer", reply["answer"])


def any_rank(*wishes: bool) -> tuple[bool, ...]:
    """Decide of each wish, in every process alike, whether one of them has it."""
    if rank_of_world()[1] == 1:
        return wishes
    counts = torch.tensor(wishes, dtype=torch.int64, device=_message_device())
    _together(lambda: distributed.all_reduce(counts))
    return tuple(count > 0 for count in counts.tolist())


def require_same_step(step: int) -> None:
    """Check that every process resumes at the same step.

    Raises:
        CheckpointError: this one found another checkpoint than the main process did.
    """
    expected = broadcast_object(step)
    if any(any_rank(step != expected)):
        raise CheckpointError(
            f"processes resume at different steps, number {rank_of_world()[0]} at {step}, the "
            f"first at {expected}; put the state folder on a disk that all processes share"
        )


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather the rows of all processes [B, …]; gradients flow back to all.

    Each brings equally many. A process that is alone gets the very tensor that it brought.
    """
    return rows if rank_of_world()[1] == 1 else cast("torch.Tensor", _Gather.apply(rows))


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards each process's rows get the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(rank_of_world()[1])]
        _together(lambda: distributed.all_gather(parts, rows.contiguous()))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        _together(lambda: distributed.all_reduce(summed))
        return summed[rank_of_world()[0] * ctx.rows :][: ctx.rows]


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Average a tensor over the processes, float32, without gradient."""
    return average_([value.detach().to(torch.float32, copy=True)])[0]


@torch.no_grad()
def average_(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Replace each float32 tensor by its mean over the processes, and return them."""
    world = rank_of_world()[1]
    if world > 1:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            _together(partial(distributed.all_reduce, flat))
            means = torch.split(flat.div_(world), [tensor.numel() for tensor in bucket])
            for tensor, mean in zip(bucket, means, strict=True):
                tensor.copy_(mean.view_as(tensor))
    return tensors


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the tensors in groups of at least `BUCKET_NUMBERS`: few messages, no second model."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(held.numel() for held in bucket) >= BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _message_device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


def _together(collective: Callable[[], object]) -> None:
    """Do what all processes do at once.

    Raises:
        PeerLost: another one ended, or did not come within the group's time-out.
    """
    try:
        collective()
    except RuntimeError as error:  # torch's own are all of this kind
        rank, world = rank_of_world()
        # The first sentence of torch's message, without the place in its source.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = re.sub(r"^\[\S*\] *", "", first).split(". ")[0][:200]
        raise PeerLost(
            f"process {rank} of {world} lost another one, whose own message says why "
            f"({reason}); start them all again: training goes on from the last checkpoint"
        ) from error
