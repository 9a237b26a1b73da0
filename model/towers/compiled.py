"""A tower's pass as compiled code, or as plain Python with a sentence where compiling fails.

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
        if not self._is_warm:
            self._warm_up(clip, inputs)
        return self._chosen(clip, inputs)

    def _warm_up(self, clip: Any, inputs: torch.Tensor) -> None:
        """Compile both directions now: the training's own backward pass could not fall back any more."""
        self._is_warm = True
        try:
            with torch.random.fork_rng():
                features = self._chosen(clip, inputs)
                wanted = [parameter for parameter in clip.parameters() if parameter.requires_grad]
                if features.requires_grad:
                    torch.autograd.grad(features.sum(), wanted, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError) as error:
            self._chosen = self._plain
            name = getattr(self._plain, "__name__", "the pass")
            reason = (str(error).splitlines() or [""])[0][:160]
            log.warning(
                "compile: %s runs uncompiled, it failed with %s: %s",
                name,
                type(error).__name__,
                reason,
            )
