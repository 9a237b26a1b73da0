"""What a published model is here: architecture and tensors in open_clip's words, and files.

Beside it what the user states: a wrong guess at the activation costs several points in silence.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.errors import ConfigError

QUICK, PLAIN = "quickgelu", "gelu"


@dataclass(frozen=True)
class Given:
    """What the user states about a model because its files may not; None where they must."""

    # A row of `model.zoo.family`, an open_clip name or name/tag, or the path of a JSON config.
    towers: str | None = None
    activation: str | None = None  # QUICK or PLAIN

    def check_activation(self, architecture: dict[str, Any], where: str) -> dict[str, Any]:
        """Return the architecture, whose files state the activation, unless another was given.

        Raises:
            ConfigError: another was.
        """
        stated = QUICK if architecture.get("quick_gelu") else PLAIN
        if self.activation not in (None, stated):
            raise ConfigError(
                f"--activation {self.activation}: {where} says {stated}; leave the option out"
            )
        return architecture

    def choose_activation(
        self, architecture: dict[str, Any], listed: str | None, where: str
    ) -> dict[str, Any]:
        """Return the architecture with the activation that the user or the table of models names.

        Raises:
            ConfigError: neither does.
        """
        chosen = self.activation or listed
        if chosen is None:
            raise ConfigError(
                f"{where}: trained with gelu or quickgelu? The file does not say, and a wrong "
                "guess costs several points: pass --activation (OpenAI's weights and their "
                "children have quickgelu, LAION's gelu)"
            )
        return architecture | {"quick_gelu": chosen == QUICK}


@dataclass(frozen=True)
class ForeignModel:
    """A model as read from its published form.

    ``architecture`` is open_clip's ``model_cfg``, complete: ``quick_gelu`` gives the activation.
    ``tensors`` have open_clip's key names and may still lie in the file (memory-mapped). ``files``
    are what the tokeniser and the text tower need beside the weights, by name; with ``is_verbatim``
    captions go to that tokeniser as they are, where open_clip would repair and strip them first.
    """

    form: str
    architecture: dict[str, Any]
    preprocess: dict[str, Any]  # open_clip's preprocess_cfg: mean, std, interpolation, resize_mode
    tensors: dict[str, torch.Tensor]
    weights: Path  # the file that the tensors come from
    files: dict[str, bytes] = field(default_factory=dict)
    licence: str | None = None
    is_verbatim: bool = False
