"""A tower's pass as compiled code, or as plain Python where compiling fails, with a warning.

Compiling takes a minute or two on the first step. Passes without gradients stay plain: validation
would compile them once more, for its own batch sizes.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

Pass = Callable[[Any, torch.Tensor], torch.Tensor]


class Compiled:
    """A pass (model, input) → features that is compiled on its first use with gradients."""

    def __init__(self, plain: Pass) -> None:
        """Take the pass; nothing is compiled yet."""
        self._plain, self._chosen, self._is_warm = plain, torch.compile(plain), False

    def __call__(self, clip: Any, inputs: torch.Tensor) -> torch.Tensor:
        """Return the features, by compiled code where gradients are wanted and compiling works."""
        if not torch.is_grad_enabled():
            return self._plain(clip, inputs)
        if self._is_warm:
            return self._chosen(clip, inputs)

        # Both directions are compiled now: in training's backward pass it is too late to fall back.
        self._is_warm = True
        try:
            with torch.random.fork_rng():
                features = self._chosen(clip, inputs)
                wanted = [parameter for parameter in clip.parameters() if parameter.requires_grad]
                if features.requires_grad:
                    torch.autograd.grad(features.sum(), wanted, allow_unused=True)
        except torch.OutOfMemoryError:
            raise  # no failure to compile, although it is a RuntimeError
        except (RuntimeError, ImportError, OSError) as error:
            self._chosen = self._plain
            log.warning(
                "compile: %s runs uncompiled, it failed with %s: %s",
                getattr(self._plain, "__name__", "the pass"),
                type(error).__name__,
                (str(error).splitlines() or [""])[0][:160],
            )
        return self._chosen(clip, inputs)
