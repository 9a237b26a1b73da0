"""Several processes that train one model, as a launcher set torch.distributed up; one process where it did not.

Every function reads torch.distributed's state and nothing else, and does nothing in a process that is alone.

Shapes: L rows of one process, B of all, rank by rank.
"""

from typing import Any

import torch
from torch import distributed


def rank_of_world() -> tuple[int, int]:
    """Return which of how many processes this is; one alone otherwise."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes [B, …], each of which brings equally many; gradients flow back to all.

    A process that is alone gets the very tensor that it brought.
    """
    if rank_of_world()[1] == 1:
        return rows
    gathered: torch.Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards each process's rows get the sum of what all processes make of them."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(rank_of_world()[1])]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        summed = gradients[0].contiguous()
        distributed.all_reduce(summed)
        return summed[rank_of_world()[0] * ctx.rows :][: ctx.rows]


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the processes, float32, without gradient."""
    return average_([value.detach().to(torch.float32, copy=True)])[0]


def average_(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Replace each float32 tensor by its mean over the processes, and return them."""
    world = rank_of_world()[1]
    if world > 1:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= world
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
    return tensors
