"""Weights that no step made: a moving average, and mixtures with the start weights.

The average is what is validated and kept. It costs its weights once more in memory and one pass
over them a step. It changes places with the weights for validation by exchanging storages, so
nothing is copied. Running statistics of normalisation layers are the towers' own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model.towers.towers import NamedTensors


class WeightAverage:
    """The exponential moving average of a model's parameters.

    torch's `AveragedModel` around the same update gives the same bits, resumed or not. Ours stays
    for what it does beside: it averages from the start weights on with a decay that grows (torch's
    copies the first step's weights, with one decay), lends the average to the model that compiled
    passes know, and asks the device nothing at a step.
    """

    def __init__(self, clip: torch.nn.Module, decay: float) -> None:
        """Start from the weights as they are."""
        self._decay = decay
        self._parameters = dict(clip.named_parameters())
        self._average = {name: value.detach().clone() for name, value in self._parameters.items()}

    def update(self, step: int) -> None:
        """Add the weights after a 0-based step; the decay grows as (1 + step) / (10 + step)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([*self._average.values()], [p.detach() for p in self._parameters.values()], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the average for its weights while the block runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._average[name].data = self._average[name].data, parameter.data

    def state_dict(self) -> NamedTensors:
        """Name the average by the parameters' names."""
        return dict(self._average)

    def load_state_dict(self, tensors: NamedTensors) -> None:
        """Put the average of a checkpoint in place."""
        for name, value in self._average.items():
            value.copy_(tensors[name])


def copy_weights(clip: torch.nn.Module) -> NamedTensors:
    """Copy a model's weights and buffers to the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in clip.state_dict().items()}


def interpolate(start: NamedTensors, trained: NamedTensors, coefficient: float) -> NamedTensors:
    """Mix weights: (1 - a) * start + a * trained; integers are the trained ones'.

    Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT).
    """
    return {
        name: torch.lerp(start[name], value, coefficient) if value.is_floating_point() else value
        for name, value in trained.items()
    }


def choose_coefficient(recalls: Mapping[float, float], tolerance: float) -> float:
    """Choose the smallest coefficient whose mean recall is within ``tolerance`` of the best."""
    # Recalls that differ by less than 1e-9 are equal: rounding is far below, one query of a million
    # far above.
    least = max(recalls.values()) - tolerance - 1e-9
    return min(coefficient for coefficient, recall in recalls.items() if recall >= least)
